"""The kinds of value a run file may hold. Strict: `true` is not 1, and "8" is not 8."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, Strict, StringConstraints

from heterotune.config.methods import METHODS

LARGEST_COUNT = 2**31 - 1
LARGEST_LIST = 1000
LARGEST_FLEET = 1_000_000

Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]

Count = Annotated[Integer, Field(ge=1, le=LARGEST_COUNT)]
CountOrZero = Annotated[Integer, Field(ge=0, le=LARGEST_COUNT)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Decay = Annotated[Number, Field(ge=0, lt=1)]
Share = Annotated[Number, Field(gt=0, le=1)]

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]

StrategyName = Literal[tuple(METHODS)]
TopologyName = Literal["root", "sharded"]


class Section(BaseModel):
    """Base of every section of a run file: frozen, no unknown keys, each field's docstring is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
