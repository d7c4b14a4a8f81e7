"""The job in pfl: FederatedAveraging over a SimulatedBackend with a PyTorchModel, as in pfl's own LLM benchmark.

With several processes it runs under `torchrun`, and pfl divides the cohort among them.
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import torch
from job import Job, load_job, save_outcome
from lora_llama import LoraLlama, as_arrays
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class PflLlama(LoraLlama):
    """With the second method that PyTorchModel asks for."""

    def metrics(self, input_ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> dict[str, Weighted]:
        """Return the loss; pfl asks for it in the first round, which does not count."""
        with torch.no_grad():
            return {"loss": Weighted.from_unweighted(self.loss(input_ids_BT, targets_BT).item())}


class RoundClock(TrainingProcessCallback):
    """Notes when each round ended."""

    def __init__(self) -> None:
        self.round_ends: list[float] = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Never stops the training."""
        self.round_ends.append(time.perf_counter())
        return False, Metrics()


def federated_dataset(job: Job) -> FederatedDataset:
    """Return pfl's view of the job: its users are the places of the cohorts, drawn in the job's order."""
    order = itertools.product(range(1, job.num_rounds + 1), range(job.cohort_size))

    def make_dataset(user: tuple[int, int]) -> PyTorchTensorDataset:
        tensors = tuple(torch.from_numpy(rows) for rows in job.client_rows(*user))
        return PyTorchTensorDataset(tensors, user_id=str(user))

    return FederatedDataset(make_dataset, lambda: next(order))


def run(job: Job) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return when each round ended, and the adapter after the last."""
    torch_model = PflLlama(job)
    trained = [parameter for parameter in torch_model.parameters() if parameter.requires_grad]
    model = PyTorchModel(
        model=torch_model,
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(trained, lr=lr),  # without the frozen ones
        central_optimizer=torch.optim.SGD(trained, lr=1.0),
    )
    users = federated_dataset(job)
    clock = RoundClock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=job.num_rounds,
            evaluation_frequency=job.num_rounds + 1,
            train_cohort_size=job.cohort_size,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=job.about["learning_rate"], local_batch_size=job.batch_size
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return clock.round_ends, as_arrays(torch_model.lora())


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    np.random.seed(0)  # pfl draws its seeds from here; every process must draw the same
    outcome = run(load_job(sys.argv[1]))
    if pytorch_ops.distributed.global_rank == 0:
        save_outcome(sys.argv[2], *outcome)
    if torch.distributed.is_initialized():  # pfl leaves it open, and Gloo's threads then sometimes abort at exit
        torch.distributed.destroy_process_group()
