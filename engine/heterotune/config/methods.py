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
OURS: Form = "adapter form (our mapping)"


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
            "DeMA and CMGA: siblings share LoRA by layer, types a head branch or answers; conflicts are projected",
            "after Jia et al., arXiv:2411.16796v2 (abstract only)",
            "reconstruction",
        ),
        "fedavg_lora": Method(
            "FedAvg of one LoRA within each model type (FedIT)",
            "McMahan et al., 2017; Zhang et al., 2023",
            "official form",
        ),
        "fedex_lora": Method(
            "FedAvg of LoRA within each model type; what the means of U and V miss goes into the frozen weights",
            "FedEx-LoRA, after third parties' notes",
            "official form",
            "single updates",
        ),
        "flora": Method(
            "stacked LoRAs are merged into each model type's frozen weights; every round begins with a fresh LoRA",
            "FLoRA, NeurIPS 2024, arXiv:2409.05976",
            "official form",
            "single updates",
        ),
        "flexlora": Method(
            "siblings share the mean product U V; an SVD cuts it to each model type's rank",
            "FlexLoRA, NeurIPS 2024, arXiv:2402.11505",
            "official form",
            "single updates",
        ),
        "hetlora": Method(
            "siblings share LoRA, each its first components, zero-padded and weighted by the products' norms",
            "HETLoRA, EMNLP 2024, arXiv:2401.06432",
            "adapter form (our mapping)",
            "single updates",
        ),
        "heterofl": Method(
            "model types train the first components of common LoRA tensors, averaged where covered",
            "after HeteroFL, ICLR 2021",
            "adapter form (our mapping)",
            "whole sums",
        ),
        "fedrolex": Method(
            "siblings train a window of common LoRA components that rolls on every round, averaged where covered",
            "after FedRolex, NeurIPS 2022",
            "adapter form (our mapping)",
            "whole sums",
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
        "local_only": Method("Every client trains LoRA of its own; nothing travels", "the usual lower bound", OURS),
        "centralised": Method(
            "One LoRA for each model type on the rows of all its clients, without a federation",
            "the usual upper bound",
            OURS,
        ),
        "fedprox": Method(
            "FedAvg of LoRA; clients are pulled back to the common values", "Li et al., MLSys 2020", OURS
        ),
        "scaffold": Method(
            "FedAvg of LoRA; control variates correct every local step", "Karimireddy et al., ICML 2020", OURS
        ),
        "fedavgm": Method("FedAvg of LoRA with momentum at the server", "Hsu et al., 2019", OURS, "whole sums"),
        "fedadagrad": Method(
            "FedAvg of LoRA with Adagrad at the server", "Reddi et al., ICLR 2021", OURS, "whole sums"
        ),
        "fedadam": Method("FedAvg of LoRA with Adam at the server", "Reddi et al., ICLR 2021", OURS, "whole sums"),
        "fedyogi": Method("FedAvg of LoRA with Yogi at the server", "Reddi et al., ICLR 2021", OURS, "whole sums"),
        "ffa_lora": Method(
            "FedAvg of U alone: V stays at random values that all clients of a model type share",
            "Sun et al., ICLR 2024, arXiv:2403.12313",
            "official form",
        ),
    }
)
"""Name in a run file -> the method."""


def needs_of(method: str, options: object) -> Needs:
    """Return what a method's server needs of a round's updates; its options may need more than the method does."""
    return getattr(options, "needs", METHODS[method].needs)
