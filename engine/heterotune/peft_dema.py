"""DeMA with a non-linearity in its branches, as an adapter kind of PEFT: `import heterotune.peft_dema`, then load.

    base = AutoModelForCausalLM.from_pretrained(BASE)
    model = PeftModel.from_pretrained(base, OUT)

`heterotune.activation: silu` makes y = W x + scale · B silu(A x), which no LoRA can be. PEFT's extension point is
`peft.utils.register_peft_method`; it takes only names that are members of the enumeration `PeftType` (peft 0.21), so
the one member that it lacks is added here first. Adapters without an activation are stock LoRAs and need none of this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "DEMA"


def _add_peft_type(name: str) -> None:
    """Add a member to `PeftType`, as the standard library's `Enum` keeps them; a later peft may have it already."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_, member._value_, member._sort_order_ = name, name, len(PeftType)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


_add_peft_type(NAME)


@dataclass
class DemaConfig(PeftConfig):
    """Configuration of a `DemaModel`; the fields that LoRA has mean what they mean there.

    Attributes:
        target_modules: Names of the linears with branches.
        r: Rank, all branches of a linear together.
        rank_pattern: Module name -> rank, where it differs.
        lora_alpha: Branches are scaled by lora_alpha / r.
        alpha_pattern: Module name -> alpha, where it differs.
        activation: What is between A and B; "silu".
        linear_modules: Full names of modules that have nothing between A and B, like the head.
        bias_modules: Full names of modules whose B has a bias.
    """

    target_modules: list[str] | None = None
    r: int = 8
    rank_pattern: dict[str, int] = field(default_factory=dict)
    lora_alpha: float = 8
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    activation: str = "silu"
    linear_modules: list[str] = field(default_factory=list)
    bias_modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = getattr(PeftType, NAME)
        if self.activation != "silu":
            raise ValueError(f"activation = {self.activation} is not known. It is silu.")


class DemaLayer(nn.Module, BaseTunerLayer):
    """A linear with branches beside it. They cannot be merged into its weight: call it, or unload the adapter."""

    adapter_layer_names = ("dema_A", "dema_B")
    other_param_names = ("is_linear", "scaling")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.dema_A, self.dema_B = nn.ModuleDict(), nn.ModuleDict()
        self.is_linear: dict[str, bool] = {}
        self.scaling: dict[str, float] = {}
        self._disable_adapters, self.merged_adapters = False, []

    def update_layer(self, adapter_name: str, config: DemaConfig, path: str) -> None:
        """Add an adapter that does nothing yet."""
        base = self.get_base_layer()
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, path), config.r)
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
        self.dema_A[adapter_name] = nn.Linear(base.in_features, rank, bias=False)
        self.dema_B[adapter_name] = nn.Linear(rank, base.out_features, bias=path in config.bias_modules)
        nn.init.zeros_(self.dema_B[adapter_name].weight)
        if self.dema_B[adapter_name].bias is not None:
            nn.init.zeros_(self.dema_B[adapter_name].bias)
        self.is_linear[adapter_name], self.scaling[adapter_name] = path in config.linear_modules, alpha / rank
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W x + b and what every active adapter adds."""
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.dema_A:
                low = self.dema_A[name](x.to(self.dema_A[name].weight.dtype))
                low = low if self.is_linear[name] else F.silu(low)
                result = result + (self.dema_B[name](low) * self.scaling[name]).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: no weight matrix holds a non-linearity."""
        raise NotImplementedError("DEMA's branches have a non-linearity, so they cannot be merged into a weight.")

    def unmerge(self) -> None:
        """Do nothing: nothing was merged."""


class DemaModel(BaseTuner):
    """A model whose linears have branches beside them."""

    prefix = "dema_"
    tuner_layer_cls = DemaLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _create_and_replace(
        self, dema_config: DemaConfig, adapter_name: str, target, target_name, parent, current_key: str
    ) -> None:
        if isinstance(target, DemaLayer):
            target.update_layer(adapter_name, dema_config, current_key)
            return
        if not isinstance(target, nn.Linear):
            raise TypeError(f"{current_key} is {type(target).__name__}, not torch.nn.Linear, which DEMA is made for.")
        layer = DemaLayer(target)
        layer.update_layer(adapter_name, dema_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


register_peft_method(name=NAME.lower(), config_cls=DemaConfig, model_cls=DemaModel)
