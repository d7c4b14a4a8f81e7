"""Corpora, their partition among clients, tokenising and batches."""
