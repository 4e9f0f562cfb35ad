"""Events of a scenario: what an operator does by hand, at its time, whoever operates the cluster."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import virtgym.envs  # noqa: F401  # registers the environments
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.agenda import Event, Migrate
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.experiments.run.cell import evaluate

FOUR = {"n_hosts": 4, "cores": 8, "memory": "binding", "arrival": "first_fit"}
EVENTS = [
    {"at_s": 3600, "maintenance": [0, 1]},
    {"at_s": 7200, "end_maintenance": [1]},
    {"at_s": 7200, "migrate": {"vm": 3, "host": 1}},
    {"at_s": 9000, "empty": 2},
]


def test_events_happen_at_the_edge_at_or_after_their_time(make_sim: Any) -> None:
    events = (Event(at_s=400.0, maintenance=(1,)), Event(at_s=900.0, end_maintenance=(1,)))
    sim = make_sim([0.1] * 4, **FOUR, events=events)
    seen = []
    for _ in range(5):
        seen.append(int(sim.state.host_maintenance[1]))
        sim.step()
    assert seen == [0, 0, 1, 0, 0]
    sim.reset()
    sim.advance(700.0)  # however time is cut
    assert sim.state.host_maintenance[1] == 1
    sim.advance(1000.0)
    assert sim.state.host_maintenance[1] == 0
    sim.reset()
    assert sim.state.host_maintenance[1] == 0
    sim.run()
    assert sim.time_s == 3600.0


def test_events_that_do_nothing_change_nothing(make_sim: Any) -> None:
    plain = make_sim([0.3] * 6, **FOUR)
    other = make_sim([0.3] * 6, **FOUR, events=(Event(at_s=450.0, end_maintenance=(2,)),))
    plain.run()
    other.run()
    assert plain.metrics() == other.metrics()


def test_moves_and_refusals(make_sim: Any) -> None:
    events = (
        Event(at_s=0.0, migrate=Migrate(2, 3)),
        Event(at_s=300.0, migrate=Migrate(2, 3)),  # it is there
        Event(at_s=600.0, empty=0),
    )
    sim = make_sim([0.1] * 4, **FOUR, events=events)
    assert sim.state.vm_dest[2] == 3  # ordered at reset, under way
    sim.strict = True  # an operator's refused order is nobody else's
    sim.advance()
    assert sim.state.vm_host[2] == 3
    assert [(r.kind, r.vm, r.host) for r in sim.agenda.refused] == [("move", 2, 3)]
    sim.advance()
    sim.advance()
    sim.advance()
    assert sim.state.host_n_vms[0] == 0
    assert sim.state.totals.illegal == 0
    assert len(sim.agenda.refused) == 1


def test_a_host_is_emptied_within_the_rules_and_what_stays_is_counted(make_sim: Any) -> None:
    rules = Rules(anti_affinity=((0, 4),), must=(VmHostRule((1,), (0,)),))
    sim = make_sim([0.1] * 5, **FOUR, rules=rules, events=(Event(at_s=300.0, empty=0),))
    sim.advance(600.0)
    where = np.where(sim.state.vm_dest >= 0, sim.state.vm_dest, sim.state.vm_host)
    assert where[1] == 0  # it must run there
    assert where[0] != where[4]
    assert (np.delete(where, 1) != 0).all()
    assert [r.vm for r in sim.agenda.refused] == [1]


def test_copies_and_pickles_go_on_with_what_is_left(make_sim: Any) -> None:
    sim = make_sim([0.1] * 4, **FOUR, events=(Event(300.0, (1,)), Event(600.0, (2,))))
    sim.advance()
    for twin in (sim.fork(), pickle.loads(pickle.dumps(sim))):
        twin.advance()
        assert twin.state.host_maintenance.tolist() == [0, 1, 1, 0]
    assert sim.state.host_maintenance.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"at_s": -1, "empty": 0}, r"scenario.events.0.at_s=-1.0: must be at least 0, before"),
        ({"at_s": 1e9, "empty": 0}, r"before the end of the episode, 86400 s"),
        ({"at_s": 0}, r"scenario.events.0: needs one of maintenance, end_maintenance, migrate, empty"),
        ({"maintenance": [1, 10]}, r"scenario.events.0.maintenance\[1\]=10: no such host, .* 0..9"),
        ({"empty": -1}, r"scenario.events.0.empty=-1: no such host"),
        ({"migrate": {"vm": 50, "host": 0}}, r"scenario.events.0.migrate.vm=50: no such VM, .* 0..49"),
        ({"migrate": {"vm": 5, "host": 10}}, r"scenario.events.0.migrate.host=10: no such host"),
        ({"migrat": {"vm": 5, "host": 10}}, r"migrat: no such key"),
        ({"empty": "x"}, r"empty: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_what_is_wrong_is_one_line(event: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_scenario("small", overrides={"events": [event]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("policy", ["static", "drs", "thr-mmt"])
def test_rows_say_what_was_refused(policy: str) -> None:
    few = {"horizon_s": 12_000.0, "events": EVENTS}
    row = evaluate("small", policy, overrides=few).iloc[0]
    assert row["finished"]
    assert row["events_refused"] >= 0
    assert np.isnan(evaluate("small", "static", overrides={"horizon_s": 600.0}).iloc[0]["events_refused"])


def test_agents_see_maintenance_in_their_masks() -> None:
    scenario = build_scenario(
        "small", overrides={"horizon_s": 1800.0, "events": [{"at_s": 300, "maintenance": [9]}]}
    )
    env: Any = gym.make("virtgym/Cluster-v0", scenario=scenario, disable_env_checker=True)
    env.reset(seed=0)
    codec, legal = env.unwrapped.codec, []
    for _ in range(3):
        here = env.unwrapped.sim.state.vm_host
        vm = next(
            v for v in np.flatnonzero(env.unwrapped.action_masks()[1 : 1 + codec.n_vms]) if here[v] != 4
        )
        env.step(1 + int(vm))  # choose it
        hosts = env.unwrapped.action_masks()[1 + codec.n_vms : 1 + codec.n_vms + codec.n_hosts]
        legal.append(bool(hosts[9]))
        env.step(1 + codec.n_vms + int(np.flatnonzero(hosts)[0]))  # it goes there
        env.step(0)
    assert legal == [True, False, False]
