"""Frozen LLaMA backbones: loading, ZeRO-3 sharding with offload, and the pass that all ranks make together."""
