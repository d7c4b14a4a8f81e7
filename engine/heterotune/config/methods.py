"""The federated methods that a run file may name, in one table: what each is, and what it needs of a round.

Imports nothing of the package but field types, so that checks, plans and lists need no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Form = Literal["official form", "adapter form (our mapping)", "reconstruction"]
Needs = Literal["slices", "whole sums", "single updates"]


@dataclass(frozen=True)
class Method:
    """A federated method as a user chooses it.

    Attributes:
        summary: What it is, in one line.
        source: Whose it is.
        form: How near we are to its source: as published, carried over to adapters by us, or reconstructed.
        needs: What its server must have: "slices" of the sums over clients (every step works element by element),
            "whole sums" in one place, because it keeps state or looks at whole matrices, or "single updates".
    """

    summary: str
    source: str
    form: Form
    needs: Needs = "slices"


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "heterotune": Method(
            "DeMA and CMGA: siblings share LoRA by layer, all types a branch at the head, conflicts are projected",
            "after Jia et al., arXiv:2411.16796v2 (abstract only)",
            "reconstruction",
        ),
        "fedavg_lora": Method(
            "FedAvg of one LoRA within each model type (FedIT)",
            "McMahan et al., 2017; Zhang et al., 2023",
            "official form",
        ),
        "fedavg_full": Method("FedAvg of whole models within each model type", "McMahan et al., 2017", "official form"),
        "depthfl": Method(
            "siblings share LoRA layer by layer; deep models also answer where shallow ones end",
            "Kim et al., ICLR 2023",
            "adapter form (our mapping)",
        ),
        "inclusivefl": Method(
            "siblings share LoRA but for each one's last layer, which learns from deeper ones",
            "Liu et al., KDD 2022",
            "adapter form (our mapping)",
            needs="whole sums",
        ),
        "fedproto": Method(
            "personal models; clients share the mean feature of each class, whatever their width",
            "Tan et al., AAAI 2022",
            "adapter form (our mapping)",
            needs="whole sums",
        ),
    }
)
"""Name in a run file -> the method."""
