"""Training in one place: who stands for whom, with which rows and how many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heterotune.data.client_rows import ClientRows, parted
from heterotune.data.tokenizing import Rows
from heterotune.fleet.clients import Client, Population, make_population
from heterotune.pooling import pool_clients, pool_cohort, pool_data

FLEET = make_population([3, 2], [3, 0, 2, 4, 1])
CLIENTS = FLEET.clients([0, 2, 3, 4])


def rows(client_id: int, num_rows: int) -> Rows:
    ids = np.full((num_rows, 4), client_id)
    return Rows(ids, ids + 1, np.full(num_rows, 4))


def test_the_first_client_of_a_type_stands_for_all():
    assert pool_clients(FLEET) == {0: Client(0, 0, 5), 1: Client(3, 1, 5)}


def test_it_makes_the_steps_of_the_whole_cohort():
    pooled = pool_clients(FLEET)
    clients, num_steps = pool_cohort(CLIENTS[1:], {2: 10, 3: 7, 4: 5}, pooled)
    assert clients == (pooled[0], pooled[1]) and num_steps == {0: 10, 3: 12}
    assert pool_cohort(CLIENTS[:1], {0: 4}, pooled) == ((pooled[0],), {0: 4})


@dataclass(frozen=True)
class World:
    population: Population
    data: object


@dataclass(frozen=True)
class Data:
    train: ClientRows


def test_it_has_the_rows_of_all_of_its_type():
    train = tuple(rows(client_id, size) for client_id, size in enumerate([3, 0, 2, 4, 1]))
    pooled = pool_data(World(FLEET, Data(parted(train)))).data.train
    assert pooled[0].input_ids[:, 0].tolist() == [0, 0, 0, 2, 2]
    assert pooled[3].input_ids[:, 0].tolist() == [3, 3, 3, 3, 4]
    assert pooled[3].targets[:, 0].tolist() == [4, 4, 4, 4, 5]
    assert pooled.of_client.keys() == {0, 3} and len(train[0]) == 3
    assert [len(each) for each in pooled.held()] == [5, 5], "what label priors are told from"
