"""Adapters: tables of scopes (DeMA), the stacked bank of a chunk, attaching to a backbone, alignment between types."""
