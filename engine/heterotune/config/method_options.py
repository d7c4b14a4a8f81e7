"""Sections that say how clients train and what a federated method does with their adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from heterotune.config.field_types import Count, CountOrZero, Decay, Flag, NotNegative, Positive, Section, Share
from heterotune.config.methods import METHODS, Needs

DEFAULT_LOCAL_STEPS = 10

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _check_targets(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """At least one layer, none twice."""
    if not targets:
        raise ValueError("leaves nothing to train. Name at least one linear layer, or write all-linear.")
    if targets != "all-linear" and len(set(targets)) < len(targets):
        raise ValueError("repeats a layer. Name each layer once.")
    return targets


Targets = Annotated[Literal["all-linear"] | tuple[LinearName, ...], AfterValidator(_check_targets)]


class LocalConfig(Section):
    """What one client does with its own rows in one round."""

    steps: Count | None = None
    """Optimiser steps of a client per round, at least 1; 10 when neither `steps` nor `epochs` is given."""
    epochs: Count | None = None
    """Passes over the client's own rows per round, at least 1; instead of `steps`."""
    batch_size: Count = 4
    """Rows per optimiser step and client, at least 1."""
    optimizer: Literal["sgd", "momentum", "adamw"] = "adamw"
    """Per-client optimiser; its state starts afresh each round."""
    learning_rate: Positive = 1e-3
    """Step length of the optimiser, above 0."""
    momentum: Decay = 0.9
    """Decay of the velocity, in [0, 1); used by `optimizer: momentum`."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and second moment, each in [0, 1); used by `optimizer: adamw`."""
    eps: Positive = 1e-8
    """Added to the root of the second moment, above 0; used by `optimizer: adamw`."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay per unit of learning rate, at least 0."""
    clip_norm: Positive | None = 1.0
    """Largest Euclidean norm of one client's gradient, above 0; null = no clipping."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the steps of a round."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises from 0 at the start of a round."""
    logit_adjustment: Share | None = None
    """Logit adjustment: training on labels allows for the client's own shares of them. The part of these shares that is
    spread equally over all labels, above 0 and at most 1, e.g. 0.2; needs data with labels. null = off."""

    @model_validator(mode="before")
    @classmethod
    def _fill_steps(cls, given: Any) -> Any:
        """Neither steps nor epochs: 10 steps."""
        if isinstance(given, dict) and given.get("steps") is None and given.get("epochs") is None:
            return {**given, "steps": DEFAULT_LOCAL_STEPS}
        return given

    @model_validator(mode="after")
    def _check_together(self) -> LocalConfig:
        """What no single field can know."""
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps = {self.steps} and epochs = {self.epochs} exclude each other. Set one to null.")
        if self.steps is not None and self.warmup_steps > self.steps:
            text = f"warmup_steps = {self.warmup_steps} is more than the {self.steps} steps of a round"
            raise ValueError(f"{text}. Lower it, or raise steps.")
        return self


class HeterotuneOptions(Section):
    """DeMA and CMGA: which branches there are, who shares them, and how model types are aligned."""

    adapter_rank: Count = 8
    """Rank of the LoRA branches of a layer, at least 1; a fleet entry may override it."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; a branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list of some of q_proj, k_proj, v_proj, o_proj, gate_proj,
    up_proj, down_proj."""
    lora_scope: Literal["width", "type", "split"] = "width"
    """Who shares LoRA: "width" = siblings, by original layer; "type" = clients of one model type; "split" = half
    of the rank each."""
    lora_layers: CountOrZero | Literal["all"] = "all"
    """Layers with LoRA: "all", or that many of a model's last; 0 = none, so that the head branch is all there is."""
    head_rank: CountOrZero = 32
    """Rank of the head branch; 0 = no head branch."""
    head_scope: Literal["fleet", "width", "type"] = "fleet"
    """Who shares the head branch: "fleet" = all model types; "width" = siblings; "type" = clients of one model type."""
    head_outputs: Literal["vocabulary", "labels"] = "vocabulary"
    """What the head branch answers in: directions of the whole vocabulary, or the tokens of the data's class names."""
    head_basis: Count = 64
    """Columns of the common vocabulary basis of the head branch, at least head_rank; under `head_outputs: labels` the
    run sets it to the number of tokens that occur in class names."""
    head_learning_rate_scale: Positive = 3.0
    """Learning rate of the head branch in units of local.learning_rate, above 0."""
    personal_rank: CountOrZero = 0
    """Rank of the branch that never leaves a client; 0 = none."""
    gates: Literal["fixed", "trained"] = "fixed"
    """Mixture weights of the branches: all 1, or one trained scalar per site and branch."""
    activation: Literal["none", "silu"] = "none"
    """Between the two halves of a layer's branch: nothing, which makes it a LoRA, or SiLU, which no LoRA can be."""
    align: Literal["none", "pca", "procrustes", "gcca", "gcca_shrunk"] = "gcca"
    """How the input side of shared branches is aligned between model types, on public text only."""
    align_tokens: Count = 4096
    """Public token positions that the alignment reads, at least 1."""
    align_positions: Literal["all", "answer"] = "all"
    """Positions that count: all targets of the public rows, or of each row the one before its answer; texts of
    `data.public` then are questions in the task's template, and no public label is read."""
    realign_every: CountOrZero = 0
    """Rounds after which the head branch is aligned anew, with the adapters as they are then; 0 = only before round 1.
    Clients download the new maps."""
    distill_every: CountOrZero = 0
    """Rounds after which every head branch moves towards what all model types answer on the public rows; 0 = never.
    Needs `head_outputs: labels`, `align_positions: answer` and a `head_scope` of "type" or "width"."""
    cmga: Literal["none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine"] = "project"
    """Cross-model gradient alignment when updates of several model types meet: how they become one direction."""
    cmga_tasks: Literal["types", "clients"] = "types"
    """Whose updates are aligned: the model types' means, or every client's, also within one model type."""
    cmga_granularity: Literal["tensor", "depth_class", "branch", "model"] = "depth_class"
    """Group of tensors within which CMGA compares directions."""
    cmga_rescale: Flag = True
    """Give CMGA's result the norm of the plain weighted mean."""
    cmga_cagrad_c: Decay = 0.4
    """Radius of the ball around the mean in which `cmga: cagrad` looks, in norms of the mean, in [0, 1); 0 = none."""
    cmga_gradvac_beta: Share = 0.5
    """How fast the target cosines of `cmga: gradvac` follow those of a round, above 0 and at most 1."""
    cmga_cosine_power: NotNegative = 1.0
    """Power of the cosine with the mean by which `cmga: cosine` weighs, at least 0; 0 = only leave out who opposes."""

    @property
    def needs(self) -> Needs:
        """What these options make the server need of a round's updates; see `config.methods.Method`."""
        if self.cmga == "none":
            return METHODS["heterotune"].needs
        if self.cmga_tasks == "clients":
            return "single updates"
        return "whole sums" if self.cmga == "gradvac" else METHODS["heterotune"].needs

    def realigns(self, round_number: int) -> bool:
        """Return whether the head branch is aligned anew after a round: also the last, which a run can go on from."""
        return bool(self.realign_every) and round_number % self.realign_every == 0

    def distills(self, round_number: int) -> bool:
        """Return whether head branches learn from one another after a round."""
        return bool(self.distill_every) and round_number % self.distill_every == 0

    @model_validator(mode="after")
    def _check_head(self) -> HeterotuneOptions:
        """A basis narrower than the branch would waste rank; how many tokens labels have, the data decides."""
        if self.head_outputs == "vocabulary" and self.head_rank > self.head_basis:
            text = f"head_basis = {self.head_basis} is less than head_rank = {self.head_rank}"
            raise ValueError(f"{text}, so part of the rank could do nothing. Raise head_basis, or lower head_rank.")
        return self

    @model_validator(mode="after")
    def _check_branches_are_there(self) -> HeterotuneOptions:
        """What is asked for has a branch to be done to."""
        if self.lora_layers == 0 and not self.head_rank:
            raise ValueError("lora_layers = 0 and head_rank = 0 leave nothing to train. Raise one of them.")
        if self.lora_layers == 0 and self.personal_rank:
            text = f"personal_rank = {self.personal_rank} is the rank of branches in layers, and lora_layers = 0"
            raise ValueError(f"{text} leaves no layer to have one. Raise lora_layers, or set personal_rank: 0.")
        if self.realign_every and not self.head_rank:
            text = f"realign_every = {self.realign_every} aligns the head branch anew, and head_rank = 0 leaves it out"
            raise ValueError(f"{text}. Raise head_rank, or set realign_every: 0.")
        return self

    @model_validator(mode="after")
    def _check_distillation(self) -> HeterotuneOptions:
        """Answers are compared where they begin, and among labels; one core for all has nobody to learn from."""
        wanted = {"head_outputs": "labels", "align_positions": "answer", "head_scope": "type"}
        fits = self.head_outputs == "labels" and self.align_positions == "answer" and self.head_scope != "fleet"
        if self.distill_every and not (fits and self.head_rank):
            told = ", ".join(f"{key}: {value}" for key, value in wanted.items())
            text = f"distill_every = {self.distill_every} lets head branches learn from what others answer"
            raise ValueError(f"{text}. Set {told} and a head_rank above 0.")
        return self

    @model_validator(mode="after")
    def _check_targets_are_kept(self) -> HeterotuneOptions:
        """Model types meet again in every round, clients do not."""
        if self.cmga == "gradvac" and self.cmga_tasks == "clients":
            text = "cmga = gradvac follows pairs over rounds, and cmga_tasks = clients meet too seldom"
            raise ValueError(f"{text}. Set cmga_tasks: types, or another cmga.")
        return self


class FedavgLoraOptions(Section):
    """FedAvg of plain LoRA within each model type; nothing is shared between types."""

    adapter_rank: Count = 8
    """Rank of the LoRA branch of a layer, at least 1; a fleet entry may override it."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; the branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list as in `heterotune`."""


class FedavgFullOptions(Section):
    """FedAvg of whole models within each model type: every parameter trains and travels; adapter ranks do not apply."""

    learning_rate_scale: Positive = 1.0
    """Learning rate of every parameter in units of local.learning_rate, above 0; whole models want less than LoRA."""
