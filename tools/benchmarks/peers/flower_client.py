"""The client's side of the job in Flower: a module of its own, so that a Ray actor imports it once, with its model."""

from __future__ import annotations

from functools import cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from job import Job, load_job
from lora_llama import LoraLlama, set_lora, train_client

app = ClientApp()


@cache
def worker_state(job_path: str, num_threads: int) -> tuple[Job, LoraLlama]:
    """Return this process's job and model, loaded when they are first asked for."""
    torch.set_num_threads(num_threads)
    job = load_job(job_path)
    return job, LoraLlama(job)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which client of the job this node is."""
    reply = ConfigRecord({"client": context.node_config["partition-id"]})
    return Message(RecordDict({"who": reply}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Make the node's local steps of a round."""
    config = message.content["config"]
    job, model = worker_state(config["job"], config["num-threads"])
    round_number = config["server-round"]
    place = job.cohorts_RC[round_number - 1].tolist().index(context.node_config["partition-id"])
    parameters = model.lora()
    set_lora(parameters, message.content["arrays"].to_torch_state_dict())
    train_client(model, job, round_number, place)
    reply = {
        "arrays": ArrayRecord({name: value.detach() for name, value in parameters.items()}),
        "metrics": MetricRecord({"num-examples": job.input_ids_NMT.shape[1]}),
    }
    return Message(RecordDict(reply), reply_to=message)
