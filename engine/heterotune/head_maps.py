"""The frozen maps of the head branch through a run: found before round 1, perhaps anew between rounds, and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, HeadFrame
from heterotune.adapters.layout import AdapterLayout
from heterotune.distillation import teach_adapters
from heterotune.federation import Federation
from heterotune.head_frames import align_and_diagnose
from heterotune.head_refresh import Refreshed, refresh_head


class HeadMaps:
    """Every model type's maps; a strategy without a head branch has none."""

    def __init__(
        self,
        federation: Federation,
        attached: Mapping[int, AttachedAdapter],
        layouts: Sequence[AdapterLayout],
        global_bank: Callable[[int, HeadFrame | None], Bank],
    ) -> None:
        """Hold on to what maps are found with.

        Args:
            federation: Backbones, public rows and channel.
            attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
            layouts: Of all model types.
            global_bank: Makes a model type's global adapter with its maps: (place, frame) -> bank.
        """
        self._federation, self._attached, self._layouts = federation, attached, layouts
        self._global_bank = global_bank
        self.frames: list[HeadFrame | None] = [None] * len(layouts)
        """By place of the model type; the list stays the same object."""

    @property
    def exist(self) -> bool:
        """Whether there is a head branch; then every model type has one."""
        return self._layouts[0].head is not None

    def find(self) -> list[dict[str, Any]]:
        """Find the maps on public text; returns what to log. Every rank must call this."""
        self.frames[:], metrics = align_and_diagnose(
            self._federation, self._attached, self._layouts[0].head, self._global_bank
        )
        return metrics

    def refresh(self, values: Mapping[str, Tensor], *, realign: bool, distill: bool) -> Refreshed:
        """Find the maps anew, or teach the cores. Every rank must call this.

        Args:
            values: Key -> the server's own value; the root's count.
            realign: See `refresh_head`.
            distill: See `refresh_head`.
        """
        refreshed = refresh_head(
            self._federation,
            self._attached,
            self._banks(),
            self.frames,
            [layout.head_core_key for layout in self._layouts],
            values,
            realign=realign,
            distill=distill,
        )
        self.frames[:] = refreshed.frames
        return refreshed

    def teach(
        self, values: Mapping[str, Tensor], answer_NC: Tensor | None, round_number: int
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Let every type's adapter learn what all answer; see `teach_adapters`. Every rank must call this."""
        return teach_adapters(
            self._federation, self._attached, self._banks(), self._layouts, values, answer_NC, round_number
        )

    def _banks(self) -> dict[int, Bank]:
        """Return place of a model type -> its global adapter, where this rank holds it."""
        return {place: self._global_bank(place, self.frames[place]) for place in self._federation.backbones}

    def state(self) -> dict[str, Tensor]:
        """Return what `saved_frames` needs, as tensors."""
        return {
            f"frames/{place}/{name}": value.cpu().clone()
            for place, frame in enumerate(self.frames)
            if frame is not None
            for name, value in vars(frame).items()
        }

    def saved_frames(self, tensors: Mapping[str, Tensor]) -> list[HeadFrame | None]:
        """Return the maps of a checkpoint, on this rank's device."""
        if not self.exist:
            return list(self.frames)
        device = self._federation.device
        return [
            HeadFrame(*(tensors[f"frames/{place}/{field.name}"].to(device) for field in fields(HeadFrame)))
            for place in range(len(self._layouts))
        ]
