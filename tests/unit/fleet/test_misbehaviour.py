"""Who goes missing, comes late or is hostile: a function of the seed, with the frequencies that the run asks for."""

from __future__ import annotations

import math

import pytest

from heterotune.config.fault_options import Byzantine, Interruptions, MisbehaviourOptions, SlowClients
from heterotune.errors import ConfigError
from heterotune.fleet.clients import make_population
from heterotune.fleet.misbehaviour import (
    absences,
    done_shares,
    drops_out,
    hostile_clients,
    interruption,
    is_late,
    simulated_seconds,
    speed_factor,
)

FLEET = make_population([10, 4], [5, 5, 0] + [5] * 11)
CLIENTS = [client for ids in FLEET.members for client in FLEET.clients(ids)]


def test_dropout_has_its_probability_in_every_round():
    lost = [[drops_out(client, dropout=0.3, run_seed=1, round_number=r) for client in range(500)] for r in (1, 2)]
    assert all(0.25 < sum(row) / 500 < 0.35 for row in lost) and lost[0] != lost[1]
    assert not any(drops_out(client, dropout=0.0, run_seed=1, round_number=1) for client in range(100))


def test_speed_is_log_normal_and_fixed_for_a_run():
    slow = SlowClients(spread=0.5, deadline_seconds=10.0)
    logs = [math.log(speed_factor(client, slow, run_seed=3)) for client in range(2000)]
    assert sum(logs) / 2000 == pytest.approx(0.0, abs=0.04)
    assert math.sqrt(sum(value**2 for value in logs) / 2000) == pytest.approx(0.5, rel=0.05)
    assert speed_factor(5, slow, run_seed=3) == speed_factor(5, slow, run_seed=3) != speed_factor(5, slow, run_seed=4)


def test_a_client_is_late_after_the_deadline():
    alike = SlowClients(seconds_per_step=2.0, spread=0.0, deadline_seconds=20.0)
    assert simulated_seconds(1, 10, alike, run_seed=0) == 20.0
    assert not is_late(1, 10, alike, run_seed=0) and is_late(1, 11, alike, run_seed=0)
    assert not is_late(1, 10**6, None, run_seed=0)


def test_absent_clients_are_lost_or_late():
    slow = SlowClients(spread=0.0, deadline_seconds=10.0)
    num_steps = {client.client_id: 20 if client.client_id > 6 else 5 for client in CLIENTS}
    chosen = MisbehaviourOptions(dropout=0.5, slow=slow)
    absent = absences(CLIENTS, chosen, num_steps=num_steps, run_seed=1, round_number=2)
    lost = [client for client in CLIENTS if drops_out(client.client_id, dropout=0.5, run_seed=1, round_number=2)]
    late = [client for client in CLIENTS if client.client_id > 6 and client not in lost]
    assert lost and late
    assert absent == {**dict.fromkeys(lost, "dropped_out"), **dict.fromkeys(late, "late")}
    assert absences(CLIENTS, MisbehaviourOptions(), num_steps=num_steps, run_seed=1, round_number=2) == {}


def test_interrupted_clients_stop_after_a_share_of_their_steps():
    chosen = Interruptions(probability=0.4, earliest=0.2, latest=0.6)
    shares = [interruption(client, chosen, run_seed=1, round_number=2) for client in range(1000)]
    stopped = [share for share in shares if share is not None]
    assert 350 < len(stopped) < 450 and 0.2 <= min(stopped) < 0.22 and 0.58 < max(stopped) < 0.6
    assert shares != [interruption(client, chosen, run_seed=1, round_number=3) for client in range(1000)]
    assert interruption(1, None, run_seed=1, round_number=2) is None


def test_who_is_interrupted_is_absent_with_what_it_did():
    chosen = MisbehaviourOptions(dropout=0.3, interrupted=Interruptions(probability=0.5))
    num_steps = {client.client_id: 5 for client in CLIENTS}
    absent = absences(CLIENTS, chosen, num_steps=num_steps, run_seed=1, round_number=2)
    stopped = [client for client, reason in absent.items() if reason == "interrupted"]
    assert stopped and "dropped_out" in absent.values()
    shares = done_shares(absent, chosen, run_seed=1, round_number=2)
    assert shares == {
        client.client_id: interruption(client.client_id, chosen.interrupted, run_seed=1, round_number=2)
        for client in stopped
    }


def test_hostile_clients_are_a_share_of_each_model_type():
    hostile = hostile_clients(FLEET, Byzantine(behaviour="zero", share=0.25), run_seed=1)
    assert len([client for client in hostile if client < 10]) == 2 and len(hostile) == 3  # 2.25 of 9, 1 of 4
    assert hostile == hostile_clients(FLEET, Byzantine(behaviour="scale", share=0.25), run_seed=1)
    assert len({hostile_clients(FLEET, Byzantine(behaviour="zero", share=0.25), run_seed=s) for s in range(9)}) > 1
    assert hostile_clients(FLEET, Byzantine(behaviour="zero", share=1.0), run_seed=1) == {c.client_id for c in CLIENTS}
    assert hostile_clients(FLEET, None, run_seed=1) == frozenset()


def test_hostile_clients_by_name():
    assert hostile_clients(FLEET, Byzantine(behaviour="zero", clients=(3, 12)), run_seed=1) == {3, 12}
    with pytest.raises(
        ConfigError, match="byzantine.clients: 2 is no client with rows in this fleet. Name ids from 0 to"
    ):
        hostile_clients(FLEET, Byzantine(behaviour="zero", clients=(3, 2)), run_seed=1)
