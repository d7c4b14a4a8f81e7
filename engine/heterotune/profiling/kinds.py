"""What is measured: the kinds of memory in memory.jsonl. A kind that a rank has none of has no line."""

from __future__ import annotations

from typing import Final

HOST_RESIDENT: Final = "host_resident"
"""Pages of the process in memory."""
HOST_PINNED: Final = "host_pinned"
"""Pinned for copies to a GPU (torch's host allocator) or locked for NVMe; a part of the resident ones."""
NVME: Final = "nvme"
"""Files of DeepSpeed's parameter swapper."""
DEVICE_ALLOCATED: Final = "device_allocated"
"""In tensors on the GPU."""
DEVICE_RESERVED: Final = "device_reserved"
"""Taken from the GPU by torch, in tensors or free."""
NODE_PSS: Final = "node_pss"
"""All ranks of a node together, shared pages counted once; no peak: once at the end of a round."""
