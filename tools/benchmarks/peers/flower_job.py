"""The job in Flower: a ServerApp with FedAvg and a ClientApp in Flower's simulation runtime (Ray)."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from flower_client import app as client_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from job import Job, load_job, save_outcome

# Flower's in-memory grid looks for replies every 0.1 s; a tenth of that costs nothing here and is to its advantage.
PULL_SECONDS = 0.01


class CohortFedAvg(FedAvg):
    """FedAvg on the job's cohorts instead of cohorts of Flower's own drawing."""

    def __init__(self, job: Job, node_of_client: dict[int, int]) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=job.num_clients)
        self.job, self.node_of_client = job, node_of_client

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid):
        """Return one message for each client of the round."""
        config["server-round"] = server_round
        nodes = [self.node_of_client[client_id] for client_id in self.job.cohorts_RC[server_round - 1].tolist()]
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(record, nodes, MessageType.TRAIN)


def ask_nodes(grid: Grid, num_clients: int) -> dict[int, int]:
    """Return client -> node; Flower numbers nodes at random, and only they know whose rows they hold."""
    while len(nodes := list(grid.get_node_ids())) < num_clients:
        time.sleep(PULL_SECONDS)
    questions = [Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    replies = grid.send_and_receive(questions)
    return {reply.content["who"]["client"]: reply.metadata.src_node_id for reply in replies}


def make_server(job: Job, job_path: str, outcome_path: str, num_threads: int) -> ServerApp:
    """Return the server; it writes the outcome."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        grid.pull_interval = PULL_SECONDS
        strategy = CohortFedAvg(job, ask_nodes(grid, job.num_clients))
        ends: list[float] = []
        result = strategy.start(
            grid,
            ArrayRecord({name: torch.from_numpy(array) for name, array in job.lora.items()}),
            num_rounds=job.num_rounds,
            train_config=ConfigRecord({"job": job_path, "num-threads": num_threads}),
            evaluate_fn=lambda round_number, arrays: ends.append(time.perf_counter()),  # called at the end of a round
        )
        lora = {name: np.asarray(array.numpy()) for name, array in result.arrays.items()}
        save_outcome(outcome_path, ends[1:], lora)  # the first call is before round 1

    return app


if __name__ == "__main__":
    job_path, outcome_path, num_actors = sys.argv[1], sys.argv[2], int(sys.argv[3])
    job = load_job(job_path)
    run_simulation(
        server_app=make_server(job, job_path, outcome_path, num_threads=1),
        client_app=client_app,
        num_supernodes=job.num_clients,
        backend_config={
            "init_args": {"num_cpus": num_actors, "num_gpus": 0},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
