"""The job as a bare PyTorch loop: one client after the other in one process, no framework."""

from __future__ import annotations

import sys
import time

import torch
from job import Arrays, Job, load_job, save_outcome
from lora_llama import LoraLlama, as_arrays, set_lora, train_client


def run(job: Job) -> tuple[list[float], Arrays]:
    """Return when each round ended, and the adapter after the last."""
    model = LoraLlama(job)
    parameters = model.lora()
    common = {name: value.detach().clone() for name, value in parameters.items()}
    round_ends = []
    for round_number in range(1, job.num_rounds + 1):
        sums = {name: torch.zeros_like(value) for name, value in common.items()}
        for place in range(job.cohort_size):
            set_lora(parameters, common)
            train_client(model, job, round_number, place)
            for name, parameter in parameters.items():
                sums[name] += parameter.detach()
        common = {name: total / job.cohort_size for name, total in sums.items()}
        round_ends.append(time.perf_counter())
    return round_ends, as_arrays(common)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    save_outcome(sys.argv[2], *run(load_job(sys.argv[1])))
