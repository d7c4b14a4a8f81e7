"""What a run file may say: one frozen model per section, one docstring line per key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from heterotune.config.baseline_options import (
    CentralisedOptions,
    FedadagradOptions,
    FedadamOptions,
    FedavgmOptions,
    FedproxOptions,
    FedyogiOptions,
    FfaLoraOptions,
    LocalOnlyOptions,
    ScaffoldOptions,
)
from heterotune.config.cross_checks import cross_field_problems
from heterotune.config.data_options import DataConfig, PartitionConfig
from heterotune.config.deepspeed_json import NO_DEEPSPEED
from heterotune.config.fault_options import AggregateOptions, MisbehaviourOptions, UpdateLimits
from heterotune.config.field_types import (
    LARGEST_LIST,
    Count,
    CountOrZero,
    Flag,
    Integer,
    Name,
    NotNegative,
    Section,
    Share,
    StrategyName,
    Text,
    TopologyName,
)
from heterotune.config.heterogeneous_options import DepthflOptions, FedprotoOptions, InclusiveflOptions
from heterotune.config.method_options import (
    DEFAULT_LOCAL_STEPS,
    FedavgFullOptions,
    FedavgLoraOptions,
    HeterotuneOptions,
    LocalConfig,
)
from heterotune.config.methods import METHODS, Needs
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions
from heterotune.config.product_options import (
    FedexLoraOptions,
    FedrolexOptions,
    FlexloraOptions,
    FloraOptions,
    HeteroflOptions,
    HetloraOptions,
)
from heterotune.config.random_model import RANDOM_PREFIX, parse_random_model
from heterotune.config.row_fields import PromptFields, TextFields

__all__ = [
    "BackboneConfig",
    "CheckpointConfig",
    "ChunkConfig",
    "CohortConfig",
    "CollectiveConfig",
    "DataConfig",
    "DepthflOptions",
    "EvaluateConfig",
    "FedavgFullOptions",
    "FedavgLoraOptions",
    "FedprotoOptions",
    "FleetEntry",
    "HeterotuneOptions",
    "InclusiveflOptions",
    "LocalConfig",
    "PartitionConfig",
    "PromptFields",
    "RunConfig",
    "TextFields",
]


class FleetEntry(Section):
    """One model type and how many clients hold it."""

    name: Name
    """The model type's name in metrics, ledger and adapter files; letters, digits, dots, dashes, underscores."""
    model: Text
    """"embedded:small", "random:hidden_size=256,...", a folder, or a hub id of a LLaMA-architecture checkpoint."""
    clients: Count
    """Clients of this model type, at least 1."""
    siblings_of: Name | None = None
    """Name of the entry whose model this one was depth-pruned from; null = not a sibling."""
    layers: Annotated[tuple[CountOrZero, ...], Field(max_length=LARGEST_LIST)] | None = None
    """Original numbers of a sibling's layers, strictly increasing; null = the model folder says."""
    adapter_rank: Count | None = None
    """LoRA rank for this model type, at least 1; null = the strategy's."""
    adapter: Text | None = None
    """Folder of a PEFT LoRA that this model type's shared LoRA starts from; null = from nothing."""
    adapter_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of its adapter_model.safetensors, 64 hexadecimal digits; null = written into the run's config.yaml."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, text: str) -> str:
        """A `random:` model is spelt out here, so its spelling is checked here."""
        if text.startswith(RANDOM_PREFIX):
            parse_random_model(text)
        if text == "embedded:":
            raise ValueError("names no model. Write embedded:small, for example.")
        return text

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Layer numbers are a selection in the original order."""
        if layers is not None and (not layers or any(a >= b for a, b in zip(layers, layers[1:], strict=False))):
            raise ValueError("is not strictly increasing. List each original layer once, from low to high.")
        return layers

    @model_validator(mode="after")
    def _check_adapter(self) -> FleetEntry:
        """A digest is of something."""
        if self.adapter_sha256 is not None and self.adapter is None:
            raise ValueError("adapter_sha256 is given without adapter. Name the adapter's folder, or drop it.")
        return self

    def adapter_rank_under(self, options: HeterotuneOptions | FedavgLoraOptions) -> int:
        """Return the LoRA rank of this model type under a strategy's options."""
        return options.adapter_rank if self.adapter_rank is None else self.adapter_rank


class CohortConfig(Section):
    """Which clients take part in a round: sampled per model type, in proportion."""

    fraction: Share | None = None
    """Share of the fleet, above 0 and at most 1; 1.0 when neither `fraction` nor `clients` is given."""
    clients: Count | None = None
    """Number of clients, at least 1 and at most the fleet's; instead of `fraction`."""
    min_clients: Count = 1
    """Fewest clients whose updates must count in a round, over all model types, at least 1."""
    too_few: Literal["skip", "stop"] = "skip"
    """What to do with a round with fewer: leave the adapters as they are and go on, or stop the run."""

    @model_validator(mode="before")
    @classmethod
    def _fill_fraction(cls, given: Any) -> Any:
        """Neither fraction nor clients: everybody."""
        if isinstance(given, dict) and given.get("fraction") is None and given.get("clients") is None:
            return {**given, "fraction": 1.0}
        return given

    @model_validator(mode="after")
    def _check_one(self) -> CohortConfig:
        """One way to say it."""
        if self.fraction is not None and self.clients is not None:
            text = f"fraction = {self.fraction} and clients = {self.clients} exclude each other"
            raise ValueError(f"{text}. Set one to null.")
        return self


NO_QUANTIZATION = "none"


class BackboneConfig(Section):
    """How the frozen LLaMAs are held in memory."""

    ds_config: Text = "zero3_cpu"
    """Name of a file in ds_configs/, a path to a DeepSpeed JSON, or "none" = a plain replica on every rank."""
    group: Literal["world", "node", "rank"] = "world"
    """MPI ranks that share one sharded copy of a backbone: all, those of a node, or each rank its own."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the backbone's weights; "auto" = fp32 on CPU, bf16 on GPU."""
    quantize: Literal["none", "nf4", "fp4"] = "none"
    """4-bit weights in the layers' linears, by bitsandbytes (extra `bnb`); needs ds_config: none. "none" = as dtype."""
    checkpointing: Flag = False
    """Recompute activations in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _check_group(self) -> BackboneConfig:
        """Replicas are not shared."""
        if self.ds_config == NO_DEEPSPEED and self.group != "world":
            text = (
                f"group = {self.group} shares sharded copies, but ds_config = {NO_DEEPSPEED} gives every rank a replica"
            )
            raise ValueError(f"{text}. Drop group, or name a DeepSpeed JSON such as zero3_cpu.")
        return self

    @model_validator(mode="after")
    def _check_quantize(self) -> BackboneConfig:
        """ZeRO-3 shards numbers, not 4-bit blocks with their scales."""
        if self.quantize != NO_QUANTIZATION and self.ds_config != NO_DEEPSPEED:
            text = f"quantize = {self.quantize} is for plain replicas, but ds_config = {self.ds_config} shards weights"
            raise ValueError(f"{text}. Set ds_config to {NO_DEEPSPEED}, or drop quantize.")
        return self


class ChunkConfig(Section):
    """Clients that train together in one pass over the backbone."""

    clients: Count | Literal["auto"] = "auto"
    """Clients per chunk, at least 1; "auto" = picked for each model type by a short measurement."""
    of_type: Annotated[dict[Name, Count], Field(max_length=LARGEST_LIST)] = {}
    """Clients per chunk of single model types, instead of `clients`; config.yaml of a run says what "auto" picked."""
    max_clients: Count = 32
    """Largest chunk that "auto" may pick, at least 1."""


class CollectiveConfig(Section):
    """How updates travel."""

    topology: TopologyName = "root"
    """Where updates are combined: "root" = on MPI rank 0; "sharded" = every rank a slice of them, the same bits."""
    wire: Literal["fp32", "bf16", "int8", "topk"] = "fp32"
    """Number format of an update on its way up; see docs/ledger.md for what each loses."""
    wire_down: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format of the common values on their way down; "auto" = bf16 where `wire` is bf16, else fp32."""
    topk_share: Share = 0.01
    """Share of a tensor group's elements that `wire: topk` sends, above 0 and at most 1; at least one element."""

    @property
    def picked_wire_down(self) -> str:
        """The number format down, "auto" replaced by what it means."""
        if self.wire_down != "auto":
            return self.wire_down
        return "bf16" if self.wire == "bf16" else "fp32"


class CheckpointConfig(Section):
    """What is kept of a run so that it can go on after its job has ended."""

    every_rounds: CountOrZero = 1
    """Rounds between checkpoints, from before the first; 0 = only when the run is stopped and after the last round."""
    keep: Count = 2
    """Newest checkpoints to keep, at least 1."""
    keep_best: Flag = True
    """Keep the checkpoint with the lowest held-out loss (mean over the model types), too."""
    progress_seconds: NotNegative | Literal["never"] = 30.0
    """Shortest time in seconds between two savings of a round's finished chunks, at least 0; or "never"."""

    @property
    def progress_every_seconds(self) -> float | None:
        """`progress_seconds` as a number; None = never."""
        return None if self.progress_seconds == "never" else self.progress_seconds


def _check_metrics(metrics: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The loss always, none twice."""
    if metrics != "auto" and "loss" not in metrics:
        raise ValueError("leaves out the loss, by which the best checkpoint is picked. Add loss.")
    if metrics != "auto" and len(set(metrics)) < len(metrics):
        raise ValueError("repeats a metric. Name each metric once.")
    return metrics


MetricName = Literal["loss", "accuracy", "exact_match"]
Metrics = Annotated[Literal["auto"] | tuple[MetricName, ...], AfterValidator(_check_metrics)]


class EvaluateConfig(Section):
    """When and on how much held-out text the fleet is evaluated."""

    every_rounds: Count = 1
    """Rounds between evaluations, at least 1; before the first and after the last round always."""
    max_rows: Count = 128
    """Held-out rows in all, spread over the clients, at least 1."""
    batch_size: Count = 16
    """Rows per evaluation pass, at least 1."""
    metrics: Metrics = "auto"
    """What is measured, of loss, accuracy, exact_match; "auto" = loss, and accuracy where documents have choices."""
    choice_score: Literal["sum", "mean"] = "sum"
    """How accuracy compares answers: by the sum of their tokens' log-probabilities, or by the mean (longer answers)."""
    max_new_tokens: Annotated[Integer, Field(ge=1, le=2**20)] = 32
    """Most tokens that a model writes for exact_match, at least 1; each costs a pass over the prompts."""


class RunConfig(Section):
    """A whole run."""

    name: Name
    """Start of the run folder's name; letters, digits, dots, dashes, underscores."""
    seed: Annotated[Integer, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of every random draw, 0 to 2^63 - 1."""
    rounds: Count
    """Federation rounds, at least 1."""
    output: Path = Path("runs")
    """Folder in which the run folder is made."""
    threads_per_rank: Count | Literal["auto"] = "auto"
    """Threads of one MPI rank, at least 1; "auto" = 1 on CPU, so that bits never depend on the number of ranks."""
    bind_cores: Literal["auto", "always", "never"] = "auto"
    """Keep each rank to its share of a node's cores; "auto" = inside a batch job, where nobody else uses them."""
    watchdog_seconds: Count = 600
    """Longest wait for another rank in seconds, at least 1; then the run fails."""
    fleet: Annotated[tuple[FleetEntry, ...], Field(min_length=1, max_length=LARGEST_LIST)]
    """The model types, 1 to 1000, with unique names."""
    data: DataConfig
    """Which text the clients hold."""
    cohort: CohortConfig = CohortConfig(fraction=1.0)
    """Which clients take part in a round."""
    local: LocalConfig = LocalConfig(steps=DEFAULT_LOCAL_STEPS)
    """What a client does in one round."""
    strategy: StrategyName = "heterotune"
    """The federated method."""
    compare_with: Annotated[tuple[StrategyName, ...], Field(max_length=LARGEST_LIST)] = ()
    """Other methods to run afterwards on the same fleet, each once."""
    heterotune: HeterotuneOptions = HeterotuneOptions()
    """Options of the heterotune strategy."""
    fedavg_lora: FedavgLoraOptions = FedavgLoraOptions()
    """Options of the fedavg_lora strategy."""
    fedex_lora: FedexLoraOptions = FedexLoraOptions()
    """Options of the fedex_lora strategy."""
    flora: FloraOptions = FloraOptions()
    """Options of the flora strategy."""
    flexlora: FlexloraOptions = FlexloraOptions()
    """Options of the flexlora strategy."""
    hetlora: HetloraOptions = HetloraOptions()
    """Options of the hetlora strategy."""
    heterofl: HeteroflOptions = HeteroflOptions()
    """Options of the heterofl strategy."""
    fedrolex: FedrolexOptions = FedrolexOptions()
    """Options of the fedrolex strategy."""
    fedavg_full: FedavgFullOptions = FedavgFullOptions()
    """Options of the fedavg_full strategy."""
    depthfl: DepthflOptions = DepthflOptions()
    """Options of the depthfl strategy."""
    inclusivefl: InclusiveflOptions = InclusiveflOptions()
    """Options of the inclusivefl strategy."""
    fedproto: FedprotoOptions = FedprotoOptions()
    """Options of the fedproto strategy."""
    local_only: LocalOnlyOptions = LocalOnlyOptions()
    """Options of the local_only strategy."""
    centralised: CentralisedOptions = CentralisedOptions()
    """Options of the centralised strategy."""
    fedprox: FedproxOptions = FedproxOptions()
    """Options of the fedprox strategy."""
    scaffold: ScaffoldOptions = ScaffoldOptions()
    """Options of the scaffold strategy."""
    fedavgm: FedavgmOptions = FedavgmOptions()
    """Options of the fedavgm strategy."""
    fedadagrad: FedadagradOptions = FedadagradOptions()
    """Options of the fedadagrad strategy."""
    fedadam: FedadamOptions = FedadamOptions()
    """Options of the fedadam strategy."""
    fedyogi: FedyogiOptions = FedyogiOptions()
    """Options of the fedyogi strategy."""
    ffa_lora: FfaLoraOptions = FfaLoraOptions()
    """Options of the ffa_lora strategy."""
    backbone: BackboneConfig = BackboneConfig()
    """How the frozen LLaMAs are held in memory."""
    chunk: ChunkConfig = ChunkConfig()
    """Clients that train together."""
    collective: CollectiveConfig = CollectiveConfig()
    """How updates travel."""
    aggregate: AggregateOptions = AggregateOptions()
    """How the updates of one model type's clients become one."""
    updates: UpdateLimits = UpdateLimits()
    """Which updates are left out of a round."""
    privacy: PrivacyOptions = PrivacyOptions()
    """Noise on the sums of clients' updates: client-level differential privacy."""
    secure_aggregation: SecureAggregationOptions = SecureAggregationOptions()
    """Sums of updates that hide single ones."""
    misbehaviour: MisbehaviourOptions = MisbehaviourOptions()
    """Clients that go missing, come late or are hostile, on purpose."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept so that the run can go on later."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When and on how much text the fleet is evaluated."""
    tensorboard: Flag = True
    """Write scalars for TensorBoard into RUN/tensorboard while the run goes on."""

    def needs_of(self, strategy: StrategyName) -> Needs:
        """Return what a method's server needs of a round's updates; its options may need more than the method does."""
        return getattr(getattr(self, strategy, None), "needs", METHODS[strategy].needs)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read and check a run file, as `load_run` does; raises ConfigError with every problem."""
        from heterotune.config.load import load_run  # which reads into this class

        return load_run(path, overrides)

    @property
    def num_clients(self) -> int:
        """Clients of the whole fleet."""
        return sum(entry.clients for entry in self.fleet)

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        """What no section can know alone."""
        problems = cross_field_problems({name: getattr(self, name) for name in type(self).model_fields})
        if problems:
            raise PydanticCustomError("cross_field", "{problems}", {"problems": "\n".join(problems)})
        return self
