"""The model that the peers train: a frozen LLaMA with LoRA in plain PyTorch, and its local training.

LoRA is a linear layer of our own rather than PEFT's: the same numbers in fewer operations, to the peers' advantage.
Legend: B rows, T tokens, D width, r adapter rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from job import Job
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM


class LoraLinear(nn.Module):
    """y = W x + scale · U V x with a frozen W."""

    def __init__(self, base: nn.Linear, up_Dr: np.ndarray, down_rD: np.ndarray, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.U = nn.Parameter(torch.from_numpy(up_Dr.copy()))
        self.V = nn.Parameter(torch.from_numpy(down_rD.copy()))

    def forward(self, input_BTD: Tensor) -> Tensor:
        """Return y; one fused operation adds the branch."""
        output_BTD = self.base(input_BTD)
        low_Nr = F.linear(input_BTD.flatten(0, 1), self.V)
        return torch.addmm(output_BTD.flatten(0, 1), low_Nr, self.U.T, alpha=self.scale).view_as(output_BTD)


class LoraLlama(nn.Module):
    """A job's model at the start of the job."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        lm = LlamaForCausalLM(LlamaConfig(**job.about["llama"]))
        lm.load_state_dict({name: torch.from_numpy(array) for name, array in job.weights.items()})
        lm.requires_grad_(False).eval()
        self.decoder, self.head = lm.model, lm.lm_head
        for path in sorted({name.rpartition(".")[0] for name in job.lora}):
            parent, _, linear = path.rpartition(".")
            site = LoraLinear(
                self.decoder.get_submodule(path), job.lora[f"{path}.U"], job.lora[f"{path}.V"], job.about["lora_scale"]
            )
            setattr(self.decoder.get_submodule(parent), linear, site)

    def lora(self) -> dict[str, nn.Parameter]:
        """Return the trained tensors under the job's names."""
        return {name: value for name, value in self.decoder.named_parameters() if value.requires_grad}

    def loss(self, input_ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean loss per token in nats."""
        hidden_BTD = self.decoder(input_ids=input_ids_BT, use_cache=False).last_hidden_state
        return F.cross_entropy(self.head(hidden_BTD).flatten(0, 1), targets_BT.flatten())


@torch.no_grad()
def set_lora(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into a model's trained tensors."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def train_client(model: LoraLlama, job: Job, round_number: int, place: int) -> None:
    """Make one client's local steps of a round on the model, from where it stands."""
    ids, targets = (torch.from_numpy(rows) for rows in job.client_rows(round_number, place))
    optimizer = torch.optim.SGD(model.lora().values(), lr=job.about["learning_rate"])
    for ids_BT, targets_BT in zip(ids.split(job.batch_size), targets.split(job.batch_size), strict=True):
        optimizer.zero_grad()
        model.loss(ids_BT, targets_BT).backward()
        optimizer.step()


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as NumPy arrays of their own."""
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
