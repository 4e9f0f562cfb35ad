"""Telemetry: views show what was measured, and nothing that is reachable from them tells the future."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import Handle
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.sim import Simulator
from virtgym.envs.sim.config import ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.precopy import PrecopyConfig
from virtgym.envs.sim.models.scheduling import SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.models.telemetry import TelemetryConfig

SECRET = 0.7431
"""Utilisation of every VM from the second interval on; other signals have it too."""
LATER = 1777.125
"""When something arrives, leaves or fails, s."""


def children(thing: Any) -> Iterator[Any]:
    """Everything that an object leads to, but for modules, classes and what functions see globally."""
    if isinstance(thing, np.ndarray):
        yield thing.base
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from thing
    elif inspect.ismethod(thing):
        yield from (thing.__self__, thing.__func__)
    elif inspect.isfunction(thing):
        yield from (cell.cell_contents for cell in thing.__closure__ or ())
        yield thing.__defaults__
    yield from getattr(thing, "__dict__", {}).values()
    for kind in type(thing).__mro__:
        for slot in getattr(kind, "__slots__", ()):
            yield getattr(thing, slot, None)
        if kind.__module__.startswith("virtgym"):
            for name, member in vars(kind).items():
                if isinstance(member, property):
                    yield getattr(thing, name, None)


def reachable(*roots: Any) -> Iterator[Any]:
    """All objects that some lead to, each once."""
    seen: dict[int, Any] = {}
    todo = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or thing is None or inspect.ismodule(thing) or inspect.isclass(thing):
            continue
        seen[id(thing)] = thing
        yield thing
        todo += children(thing)


def numbers(thing: Any) -> np.ndarray:
    """The numbers that an object holds; a block of bytes is read as floats."""
    if isinstance(thing, (float, int)) and not isinstance(thing, bool) and abs(thing) < 1e15:
        return np.array([float(thing)])
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "iuf" and thing.size:
        flat = np.ascontiguousarray(thing).ravel()
        if thing.dtype == np.uint8 and flat.size % 8 == 0:
            flat = flat.view(np.float64)
        flat = flat.astype(np.float64)
        return np.asarray(flat[np.isfinite(flat)])
    return np.empty(0)


def finds(view: Any, secrets: np.ndarray) -> set[str]:
    """What holds one of some numbers, of all that is reachable from a view and from its forks."""
    fork = view.fork()
    forks = [fork, view.fork(demand=np.full(view.n_vms, 100.0)), fork.view.fork(), fork.fork()]
    fork.step()
    forks[1].step(Decisions(move_vm=np.array([0], np.int32), move_host=np.array([1], np.int32)))
    forks[2].run()
    found = set()
    for thing in reachable(view, *forks):
        values = numbers(thing)
        if values.size and np.isclose(values[:, None], secrets, rtol=1e-9, atol=0.0).any():
            found.add(f"{type(thing).__name__} {getattr(thing, 'shape', '')}")
        assert not isinstance(thing, Simulator) or any(thing is f for f in forks)
    assert any(isinstance(thing, Handle) for thing in reachable(view))
    return found


def secretive(make_cluster: Any, make_workload: Any, full: bool, mode: str) -> Simulator:
    """A simulator at its second interval, from which on nothing is as before."""
    rng = np.random.default_rng(0)
    util = np.concatenate([rng.uniform(0.1, 0.6, (1, 6)), np.full((5, 6), SECRET)])
    load = make_workload(
        util,
        arrival_s=[0, 0, 0, 0, 0, LATER],
        departure_s=[np.inf, LATER, np.inf, np.inf, np.inf, np.inf],
        mem_mib=256.0,
    )
    config: dict[str, Any] = {"telemetry": TelemetryConfig(mode=mode)}
    if full:
        config |= {
            "memory": "multiplexed",
            "io": IoConfig(),
            "cpu": SchedulingConfig(),
            "standby": StandbyConfig(),
            "migration": PrecopyConfig(),
            "failures": FailureConfig(model="none"),
            "replayed": replay_outages(
                np.array([2], np.int32), np.array([LATER]), np.array([LATER * 1.5]), 4
            ),
        }
        keys = ("memory_active", "net_tx_mbit_s", "net_rx_mbit_s", "disk_read_mbit_s", "disk_write_mbit_s")
        load = replace(load, signals=dict.fromkeys((*keys, "dirty_mib_s"), util * 0.9))
    sim = Simulator(make_cluster(4, cores=4, **config), load)
    sim.reset(np.random.default_rng(1))
    sim.step()
    return sim


@pytest.mark.parametrize("full", [False, True])
def test_nothing_reachable_from_a_view_tells_the_future(
    make_cluster: Any, make_workload: Any, full: bool
) -> None:
    demand = np.array([SECRET, SECRET * 1000.0, SECRET * 0.9])
    later = np.array([LATER, LATER * 1.5])
    sim = secretive(make_cluster, make_workload, full, "past")
    assert np.isclose(sim.state.vm_demand_mhz[0], SECRET * 1000.0)
    assert finds(sim.view, np.concatenate([demand, later])) == set()
    sim.apply(Decisions(move_vm=np.array([2], np.int32), move_host=np.array([3], np.int32)))
    assert finds(sim.view, np.concatenate([demand, later])) == set()
    known = secretive(make_cluster, make_workload, full, "instant")
    assert finds(known.view, later) == set()
    assert finds(known.view, demand)  # so the search would find it


@pytest.fixture
def make_cluster(make_cluster: Any) -> Any:
    """Clusters as they are by default, unlike those of other tests."""

    def build(n_hosts: int = 2, **changes: Any) -> ClusterConfig:
        cluster: ClusterConfig = make_cluster(n_hosts, **{"telemetry": TelemetryConfig(), **changes})
        return cluster

    return build


@pytest.fixture
def make_sim(make_cluster: Any, make_workload: Any) -> Any:
    """Simulators of such clusters."""

    def build(util: Any, n_hosts: int = 2, load: Any = None, **changes: Any) -> Simulator:
        return Simulator(
            make_cluster(n_hosts, **changes), make_workload(util, **(load or {})), horizon_s=3600.0
        )

    return build


def test_an_oracle_has_to_be_asked_for(make_cluster: Any, make_workload: Any) -> None:
    load = make_workload([[0.2], [0.9]])
    with pytest.raises(ConfigError, match=r"oracle=True.*class has information = .oracle."):
        Simulator(make_cluster(), load).view.oracle()
    sim = Simulator(make_cluster(), load, oracle=True)
    future = sim.view.oracle()
    assert (sim.information, Simulator(make_cluster(), load).information) == ("oracle", "past")
    future.step()
    assert future.state.vm_demand_mhz[0] == 900.0
    assert sim.view.state.vm_demand_mhz[0] == 500.0


def demands(sim: Simulator, steps: int) -> list[float]:
    """What the view shows of VM 0 before every interval, MHz."""
    seen = []
    for _ in range(steps):
        seen.append(float(sim.view.state.vm_demand_mhz[0]))
        sim.step()
    return seen


def shown(**telemetry: Any) -> dict[str, Any]:
    return {"telemetry": TelemetryConfig(**telemetry)}


def test_the_mean_of_the_last_interval_is_shown(make_sim: Any) -> None:
    trace = [[0.2], [0.4], [0.9], [0.1]]
    assert demands(make_sim(trace), 4) == [500.0, 200.0, 400.0, 900.0]
    assert demands(make_sim(trace, **shown(prior=0.25)), 2) == [250.0, 200.0]
    assert demands(make_sim(trace, **shown(mode="instant")), 4) == [200.0, 400.0, 900.0, 100.0]


def test_window_and_delay(make_sim: Any) -> None:
    trace = [[0.2], [0.4], [0.9], [0.1], [0.6]]
    window = demands(make_sim(trace, **shown(window_s=600.0)), 5)
    assert window == pytest.approx([500.0, 200.0, 300.0, 650.0, 500.0])
    late = demands(make_sim(trace, **shown(delay_s=300.0)), 5)
    assert late == pytest.approx([500.0, 500.0, 200.0, 400.0, 900.0])
    both = demands(make_sim(trace, **shown(delay_s=300.0, window_s=600.0)), 5)
    assert both == pytest.approx([500.0, 500.0, 200.0, 300.0, 650.0])
    fine = make_sim(trace, load={"sample_s": 100.0}, **shown(sample_s=100.0, window_s=100.0))
    assert demands(fine, 2) == pytest.approx([500.0, 900.0])
    mean = make_sim(trace, load={"sample_s": 100.0}, **shown(sample_s=100.0))
    assert demands(mean, 2) == pytest.approx([500.0, 500.0])
    coarse = make_sim(trace, **shown(sample_s=600.0))
    assert demands(coarse, 5) == pytest.approx([500.0, 500.0, 300.0, 300.0, 500.0])


def test_demand_of_a_short_host_is_used_and_ready(make_sim: Any) -> None:
    sim = make_sim([[2.0, 2.0, 2.0, 3.0]], 1, cores=2, load={"mem_mib": 100.0, "cpu_mhz": 500.0})
    sim.step()
    s = sim.view.state
    assert s.vm_demand_mhz.tolist() == [1000.0, 1000.0, 1000.0, 1000.0]  # the last one's vCPU is too slow
    assert s.host_ask_mhz[0] == 4000.0
    assert s.vm_granted_mhz == pytest.approx([500.0] * 4)
    assert (s.host_sat_now[0], s.host_scale[0]) == (1.0, 0.5)


def test_a_vm_that_came_in_between_is_measured_while_it_ran(make_sim: Any) -> None:
    sim = make_sim([[0.5, 0.8], [0.1, 0.1]], load={"arrival_s": [0.0, 120.0], "mem_mib": 100.0})
    assert sim.view.state.vm_demand_mhz.tolist() == [500.0, 0.0]
    sim.step()
    assert sim.view.state.vm_demand_mhz == pytest.approx([500.0, 800.0])
    assert sim.view.params.vm_arrival_s.tolist() == [0.0, 120.0]
    just = make_sim([[0.5, 0.8], [0.1, 0.1]], load={"arrival_s": [0.0, 300.0], "mem_mib": 100.0})
    just.step()
    assert just.view.state.vm_demand_mhz.tolist() == [500.0, 500.0]  # the prior


def test_shown_hosts_follow_orders_at_once(make_sim: Any) -> None:
    sim = make_sim([[0.2, 0.4], [0.9, 0.9]], 2, load={"mem_mib": 100.0})
    sim.step()
    assert sim.view.state.host_ask_mhz.tolist() == [600.0, 0.0]
    sim.apply(Decisions(move_vm=np.array([1], np.int32), move_host=np.array([1], np.int32)))
    assert sim.view.state.host_ask_mhz == pytest.approx([600.0, 40.0])  # a tenth for the copy
    sim.step()
    assert sim.view.state.host_ask_mhz == pytest.approx([900.0, 900.0])


def test_noise_and_gaps(make_cluster: Any, make_workload: Any) -> None:
    n, steps = 2000, 6
    load = make_workload(np.linspace(0.2, 0.7, steps)[:, None] * np.ones(n), mem_mib=1.0)
    host = {"cores": 4 * n, "memory_mib": 1e6}

    def episode(seed: int, **telemetry: Any) -> np.ndarray:
        sim = Simulator(make_cluster(1, **host, **shown(**telemetry)), load)
        sim.reset(np.random.default_rng(seed))
        rows = []
        for _ in range(steps):
            sim.step()
            rows.append(sim.view.state.vm_demand_mhz.copy())
        return np.array(rows)

    clean, noisy = episode(0), episode(0, noise=0.1)
    error = noisy / clean - 1.0
    assert abs(float(error.mean())) < 0.005
    assert float(error.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(error[0], error[1])[0, 1]) < 0.1
    assert np.array_equal(noisy, episode(0, noise=0.1))
    assert not np.array_equal(noisy, episode(1, noise=0.1))
    holes = episode(0, missing=0.3)
    stale = holes[1:] != clean[1:]
    assert float(stale.mean()) == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(holes[1:][stale], holes[:-1][stale])  # the last known value stays


@pytest.mark.parametrize("full", [False, True])
def test_integrals_do_not_depend_on_how_often_somebody_looks(
    make_cluster: Any, make_workload: Any, full: bool
) -> None:
    config: dict[str, Any] = {"cpu": SchedulingConfig(), "io": IoConfig()} if full else {}
    rng = np.random.default_rng(3)
    load = make_workload(
        rng.uniform(0.1, 1.5, (6, 12)),
        arrival_s=np.where(np.arange(12) % 3 == 0, rng.uniform(0, 900, 12), 0.0),
        departure_s=np.where(np.arange(12) % 4 == 0, rng.uniform(1000, 1700, 12), np.inf),
        mem_mib=200.0,
    )
    sims = [Simulator(make_cluster(3, cores=3, **config), load) for _ in range(2)]
    for i in range(5):
        orders = Decisions(move_vm=np.array([1 + i], np.int32), move_host=np.array([i % 3], np.int32))
        for sim in sims:
            sim.apply(orders)
        sims[0].advance()
        for part in (0.7, 41.0, 100.0, 158.3):
            sims[1].advance(part)
        for name in ("vm_demand_mhz", "vm_granted_mhz", "host_ask_mhz"):
            one, other = (getattr(sim.view.state, name) for sim in sims)
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


SMALLER = {"hosts.0.count": 12, "hosts.1.count": 12, "trace.format": "synthetic", "trace.options.n_vms": 40}


@pytest.mark.parametrize("changes", [{}, {"telemetry.noise": 0.1}, {"telemetry.window_s": 600}])
@pytest.mark.parametrize(
    ("scenario", "overrides"),
    [
        ("small", {}),
        ("ha_cold", {"arrival": "first_fit"}),
        ("ha_hot", {"arrival": "first_fit"}),
        ("suite/churn", {}),
        ("suite/memory", {}),
        ("planetlab_full", SMALLER),
    ],
)
def test_periods_that_nobody_looks_at_change_nothing(
    scenario: str, overrides: dict[str, Any], changes: dict[str, Any]
) -> None:
    built = build_scenario(scenario, seed=1, overrides={**overrides, **changes, "horizon_s": 4 * 3600.0})
    looked, alone = built.simulator(), built.simulator()
    moved = np.arange(4, dtype=np.int32)
    for sim in (looked, alone):
        sim.reset(np.random.default_rng(3))
        sim.apply(Decisions(move_vm=moved, move_host=moved[::-1].copy()))
    while not looked.done:
        looked.advance()
    alone.run()
    assert looked.state.totals.mig_done + looked.state.totals.arrivals > 0
    assert looked.digest() == alone.digest()
    for name, array in looked.view.state._asdict().items():
        np.testing.assert_array_equal(array, getattr(alone.view.state, name), err_msg=name)


def test_a_fork_goes_on_with_what_is_shown(make_sim: Any) -> None:
    load = {"arrival_s": [0, 0, 900], "departure_s": [np.inf, 700, np.inf], "mem_mib": 100.0}
    sim = make_sim([[0.2, 0.3, 0.4], *[[0.9, 0.9, 0.9]] * 5], 2, load=load)
    sim.step()
    fork = sim.view.fork()
    for _ in range(4):
        fork.step()
    assert fork.state.vm_demand_mhz.tolist() == [200.0, 300.0, 0.0]  # nobody comes or leaves
    assert fork.state.vm_requested[0] == 200.0 * 1500.0
    told = sim.view.fork(demand=[[100.0, 0.0, 0.0], [700.0, 0.0, 0.0]])
    told.step()
    assert told.state.vm_requested[0] - sim.state.vm_requested[0] == 100.0 * 300.0
    told.step()
    assert told.state.vm_requested[0] - sim.state.vm_requested[0] == 800.0 * 300.0
    with pytest.raises(ConfigError, match="fork: demand"):
        sim.view.fork(demand=[1.0])
    assert sim.view.state.vm_demand_mhz.tolist() == [200.0, 300.0, 0.0]


def test_copies_of_a_simulator_show_the_same(make_sim: Any) -> None:
    sim = make_sim([[0.2, 0.3], [0.9, 0.1], [0.5, 0.5]], 2, load={"mem_mib": 100.0})
    sim.step()
    for twin in (sim.fork(), pickle.loads(pickle.dumps(sim)), copy.deepcopy(sim)):
        twin.step()
        assert twin.view.state.vm_demand_mhz.tolist() == [900.0, 100.0]
    both = pickle.loads(pickle.dumps((sim.view, sim)))
    assert both[0] is both[1].view  # who holds the view goes on to see the simulator
    alone = pickle.loads(pickle.dumps(sim.view))
    sim.step()
    assert alone.state.vm_demand_mhz.tolist() == [200.0, 300.0]
    assert alone.fork().state.vm_demand_mhz.tolist() == [200.0, 300.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "future"}, "telemetry.mode"),
        ({"window_s": 0.0}, "telemetry.window_s"),
        ({"sample_s": 200.0}, "telemetry.sample_s"),
        ({"missing": 1.5}, "telemetry.missing"),
        ({"noise": -1.0}, "telemetry.noise"),
        ({"delay_s": 1e9}, "telemetry"),
    ],
)
def test_keys_are_checked(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario("small", overrides={f"telemetry.{key}": value for key, value in keys.items()})


def test_a_cluster_shows_the_past_unless_it_is_told_otherwise(make_cluster: Any) -> None:
    assert replace(make_cluster()).telemetry == TelemetryConfig()
    assert build_scenario("small").cluster.telemetry == TelemetryConfig()
