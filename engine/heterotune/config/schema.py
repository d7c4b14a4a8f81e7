"""What a run file may say: one frozen model per section, one docstring line per key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from heterotune.config.availability_options import AvailabilityOptions
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
from heterotune.config.clock_options import ClockOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.config.cross_checks import cross_field_problems
from heterotune.config.data_options import DataConfig
from heterotune.config.device_options import DevicesConfig
from heterotune.config.engine_options import BackboneConfig, ChunkConfig, CollectiveConfig
from heterotune.config.fault_options import AggregateOptions, MisbehaviourOptions, UpdateLimits
from heterotune.config.field_types import (
    LARGEST_LIST,
    Count,
    Flag,
    Integer,
    Name,
    Section,
    StrategyName,
)
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterogeneous_options import DepthflOptions, FedprotoOptions, InclusiveflOptions
from heterotune.config.heterotune_options import HeterotuneOptions, settled_among
from heterotune.config.method_options import (
    DEFAULT_LOCAL_STEPS,
    FedavgFullOptions,
    FedavgLoraOptions,
    LocalConfig,
)
from heterotune.config.methods import Needs, needs_of
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions
from heterotune.config.product_options import (
    FedexLoraOptions,
    FedrolexOptions,
    FlexloraOptions,
    FloraOptions,
    HeteroflOptions,
    HetloraOptions,
)
from heterotune.config.record_options import CheckpointConfig, EvaluateConfig

BEGUN = "begun"
"""Key of pydantic's validation context: whether the run has begun; see `config.load.parse_run`."""


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
    placement: Literal["spread", "dedicated", "auto"] = "spread"
    """Ranks hold every model type, or are dealt to types by work; "auto" = what the plan finds faster or fitting."""
    data: DataConfig
    """Which text the clients hold."""
    cohort: CohortConfig = CohortConfig(fraction=1.0)
    """Which clients take part in a round."""
    devices: DevicesConfig = DevicesConfig()
    """What hardware the simulated clients have: what a round takes on it, and whether a model fits it."""
    availability: AvailabilityOptions = AvailabilityOptions()
    """When clients can take part."""
    clock: ClockOptions = ClockOptions()
    """Whose updates a round waits for, in the simulated time of the clients' devices."""
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
        """Return what a method's server needs of a round's updates."""
        return needs_of(strategy, getattr(self, strategy, None))

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
    def _settle_heterotune(self) -> RunConfig:
        """The data decides which form of the head branch serves best."""
        self.__dict__["heterotune"] = settled_among(self.__dict__)  # frozen, and nobody has seen this one yet
        return self

    @model_validator(mode="after")
    def _check_together(self, info: ValidationInfo) -> RunConfig:
        """What no section can know alone."""
        begun = bool(info.context and info.context.get(BEGUN))
        problems = cross_field_problems({name: getattr(self, name) for name in type(self).model_fields}, begun=begun)
        if problems:
            raise PydanticCustomError("cross_field", "{problems}", {"problems": "\n".join(problems)})
        return self
