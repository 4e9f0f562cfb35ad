"""Shared fixtures: where the real traces are, and small clusters to build a case from."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from virtgym.envs.jit.kernels import ClosureCache
from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.envs.sim.models.telemetry import TelemetryConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING
from virtgym.envs.sim.workload import Workload

REPO = Path(__file__).resolve().parent.parent


hypothesis.settings.register_profile(
    "the same whatever else the machine does",
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("the same whatever else the machine does")

MakeCluster = Callable[..., ClusterConfig]
MakeWorkload = Callable[..., Workload]
MakeSimulator = Callable[..., Simulator]


@pytest.fixture(scope="session", autouse=True)
def quiet_kernels() -> None:
    """Kernels are compiled without a word, whatever the cache holds: tests read what commands say."""
    ClosureCache.spoken = True


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Files are not waited for until they are on the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def repo_dir() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Real traces: ``VIRTGYM_TRACES``, else ``../shared/traces`` next to the checkout."""
    path = Path(os.environ.get("VIRTGYM_TRACES") or REPO.parent / "shared" / "traces")
    if not path.is_dir():
        pytest.skip(f"no traces at {path} (set VIRTGYM_TRACES)")
    return path


@pytest.fixture(scope="session")
def reference_dir(traces_dir: Path) -> Path:
    """Peers' measured numbers, beside the traces: ``reference`` in the same folder."""
    path = traces_dir.parent / "reference"
    if not path.is_dir():
        pytest.skip(f"no reference numbers at {path}")
    return path


@pytest.fixture(scope="session")
def host_type() -> HostType:
    """Two cores of 1,000 MHz, 4 GiB, 100 W idle to 200 W at full load, on and off at once."""
    return HostType("test", 2, 1000.0, 4096.0, (100.0, 200.0), boot_time_s=0.0, shutdown_time_s=0.0)


@pytest.fixture(scope="session")
def make_cluster(host_type: HostType) -> MakeCluster:
    """Build a ``ClusterConfig``: ``make_cluster(n_hosts=2, cores=4, memory="ignored", ...)``.

    Keywords that are fields of ``HostType`` change the one host type, the others go to ``ClusterConfig``.
    Views show the demand that holds now, by which rules can be checked in one interval.
    """

    def build(n_hosts: int = 2, **changes: Any) -> ClusterConfig:
        fields = HostType.__dataclass_fields__
        kind = replace(host_type, **{k: changes.pop(k) for k in list(changes) if k in fields})
        changes.setdefault("host_types", (kind,))
        changes.setdefault("host_type_of", np.zeros(n_hosts, dtype=np.int32))
        changes.setdefault("telemetry", TelemetryConfig(mode="instant"))
        return ClusterConfig(**changes)

    return build


@pytest.fixture(scope="session")
def make_workload() -> MakeWorkload:
    """Build a ``Workload`` from demand (S, V), or one number per VM that holds for ever.

    Every other column takes a number for all VMs or one per VM; the defaults are one vCPU of 1,000 MHz,
    1,024 MiB, there from 0 for ever. ``profiles`` are guest profiles, ``profile`` says which each VM has.
    """

    def build(
        util: Any,
        sample_s: float = 300.0,
        cpu_mhz: Any = 1000.0,
        vcpus: Any = 1,
        mem_mib: Any = 1024.0,
        arrival_s: Any = 0.0,
        departure_s: Any = np.inf,
        profiles: Any = None,
        profile: Any = 0,
    ) -> Workload:
        demand = np.atleast_2d(np.asarray(util, dtype=np.float64))
        n = demand.shape[1]

        def column(value: Any, dtype: Any = np.float64) -> Any:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=dtype), (n,)))

        return Workload(
            "test",
            sample_s,
            np.ascontiguousarray(demand),
            column(cpu_mhz),
            column(vcpus, np.int32),
            column(mem_mib),
            column(arrival_s),
            column(departure_s),
            **({} if profiles is None else {"profiles": profiles, "vm_profile": column(profile, np.int32)}),
        )

    return build


@pytest.fixture(scope="session")
def make_sim(make_cluster: MakeCluster, make_workload: MakeWorkload) -> MakeSimulator:
    """Build a ``Simulator``: ``make_sim(util, n_hosts=2, load={...}, horizon_s=3600.0, **cluster)``."""

    def build(
        util: Any,
        n_hosts: int = 2,
        *,
        load: dict[str, Any] | None = None,
        strict: bool = False,
        horizon_s: float | None = 3600.0,
        **cluster: Any,
    ) -> Simulator:
        workload = make_workload(util, **(load or {}))
        return Simulator(make_cluster(n_hosts, **cluster), workload, strict=strict, horizon_s=horizon_s)

    return build


class RandomEpisode:
    """A small random cluster, load and stream of orders, legal and not, from one seed.

    It covers host types with and without boot and shutdown times, tables of different length, memory ignored
    and binding, every arrival rule, VMs wider than one vCPU, demand above nominal, arrivals and departures at
    any time, and intervals shorter than, equal to and longer than the trace's sampling period.
    """

    def __init__(self, seed: int, **fixed: Any) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.extra = np.random.default_rng([seed, 1])
        n_hosts, n_vms, samples = int(rng.integers(2, 7)), int(rng.integers(1, 15)), int(rng.integers(3, 11))
        types = tuple(self._host_type(i) for i in range(int(rng.integers(1, 4))))
        settings: dict[str, Any] = {
            "interval_s": float(rng.choice([100.0, 300.0, 600.0, 450.0])),
            "memory": str(rng.choice(["ignored", "binding"])),
            "arrival": str(rng.choice(["first_fit", "best_fit", "worst_fit", "pabfd", "policy"])),
            "arrival_cpu_overcommit": float(rng.choice([1.0, 1.5, 4.0])),
            "arrival_core_speed": bool(rng.integers(2)),
            "auto_boot": bool(rng.integers(2)),
            "hosts_start_on": bool(rng.integers(4)),
            "migration": MigrationConfig(
                float(rng.uniform(20.0, 400.0)),
                float(rng.choice([0.0, 0.1, 0.3])),
                float(rng.choice([0.0, 0.1])),
            ),
        }
        kinds = rng.integers(0, len(types), n_hosts).astype(np.int32)
        self.config = ClusterConfig(types, kinds, **{**settings, **fixed})
        self.workload = self._workload(n_vms, samples)
        self.horizon_s = samples * 300.0 * float(rng.choice([1.0, 1.2, 0.9]))

    def _host_type(self, i: int) -> HostType:
        rng = self.rng
        points = int(rng.choice([2, 4, 11]))
        return HostType(
            f"type {i}",
            int(rng.integers(1, 5)),
            float(rng.integers(5, 30)) * 100.0,
            float(rng.integers(2, 9)) * 1024.0,
            tuple(np.sort(rng.uniform(50.0, 250.0, points)).tolist()),
            boot_time_s=float(rng.choice([0.0, 0.0, 60.0, 240.0, 333.0])),
            shutdown_time_s=float(rng.choice([0.0, 0.0, 60.0, 300.0])),
            boot_power_w=None if rng.integers(2) else 180.0,
            shutdown_power_w=None if rng.integers(2) else 70.0,
        )

    def _workload(self, n_vms: int, samples: int) -> Workload:
        rng = self.rng
        span = samples * 300.0
        arrival = np.where(rng.random(n_vms) < 0.5, 0.0, rng.uniform(0.0, span, n_vms))
        on_grid = rng.random(n_vms) < 0.3
        arrival[on_grid] = np.floor(arrival[on_grid] / 100.0) * 100.0
        life = np.where(rng.random(n_vms) < 0.5, np.inf, rng.exponential(span / 3, n_vms) + 1.0)
        life[on_grid] = np.ceil(life[on_grid] / 100.0) * 100.0
        util = rng.beta(0.6, 0.9, (samples, n_vms)) * float(rng.choice([0.5, 1.0, 1.6]))
        return Workload(
            "random",
            300.0,
            util,
            rng.integers(2, 40, n_vms).astype(np.float64) * 100.0,
            rng.integers(1, 4, n_vms).astype(np.int32),
            rng.integers(1, 12, n_vms).astype(np.float64) * 256.0,
            arrival,
            arrival + life,
        )

    def orders(self, sim: Simulator, busy: float = 1.0) -> Decisions:
        """Random orders for now; about half are legal, some name what does not exist.

        Args:
            sim: The simulator whose state decides.
            busy: Mean number of orders of each kind.
        """
        rng, state = self.rng, sim.state
        n_hosts, n_vms = len(state.host_drain), len(state.vm_state)

        def hosts(n: int) -> Any:
            return rng.integers(-1, n_hosts + 1, n).astype(np.int32)

        def vms(n: int, wanted: int) -> Any:
            pool = np.flatnonzero(state.vm_state == wanted)
            some = rng.choice(pool, n) if len(pool) else rng.integers(-1, n_vms + 1, n)
            return np.where(rng.random(n) < 0.15, rng.integers(-1, n_vms + 1, n), some).astype(np.int32)

        n_on, n_full, n_place, n_off = (int(n) for n in rng.poisson(busy * np.array([0.5, 0.05, 1.5, 0.7])))
        move_vm = vms(int(rng.poisson(2 * busy)), RUNNING)
        move_host = hosts(len(move_vm))
        off = hosts(n_off)
        if rng.random() < 0.4:  # empty one host and switch it off
            host = int(rng.integers(n_hosts))
            leaving = np.flatnonzero(state.vm_host == host).astype(np.int32)
            move_vm = np.concatenate([move_vm, leaving])
            move_host = np.concatenate([move_host, hosts(len(leaving))])
            off = np.append(off, np.int32(host))
        some = self.extra.random(3) < 0.15 * busy  # a generator of its own: the other orders stay the same
        closed, opened = (self.extra.integers(-1, n_hosts + 1, int(n)).astype(np.int32) for n in some[:2])
        return Decisions(
            power_on=hosts(n_on), full_power=hosts(n_full), place_vm=vms(n_place, PENDING),
            place_host=hosts(n_place), move_vm=move_vm, move_host=move_host, power_off=off,
            maintenance=closed, end_maintenance=np.arange(n_hosts, dtype=np.int32) if some[2] else opened,
        )  # fmt: skip


@pytest.fixture(scope="session")
def random_episode() -> type[RandomEpisode]:
    """The class of random episodes: ``random_episode(seed, memory="binding")``."""
    return RandomEpisode


@pytest.fixture(scope="session")
def states() -> list[Simulator]:
    """Many states of a few random episodes of the full model, every one right; for nobody to change."""
    from oracles.random_episodes import RandomEpisode as FullEpisode
    from oracles.random_episodes import random_orders

    found = []
    for seed in (0, 1, 2, 5, 7, 8, 11, 14, 102, 103, 105):
        sim, rng = FullEpisode(seed, 40, every=seed < 100).simulator()
        while not sim.done:
            sim.apply(random_orders(rng, sim))
            found.append(sim.fork())
            sim.advance(float(rng.choice([1.5, 20.0, 150.0, 300.0])))
            found.append(sim.fork())
    return found


@pytest.fixture(scope="session")
def report_sample() -> Any:
    """The generator of run folders, ``report_sample.py`` beside this file; tests cannot import it by name."""
    spec = importlib.util.spec_from_file_location(
        "report_sample", Path(__file__).with_name("oracles") / "report_sample.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _broken_rules(rules: Rules, homes: np.ndarray) -> set[Any]:
    """What is broken, as a set."""
    broken: set[Any] = set()
    for group in rules.joined:
        broken |= {("together", a, b) for a in group for b in group if homes[a] != homes[b] >= 0 <= homes[a]}
    for group in rules.anti_affinity:
        broken |= {("apart", a, b) for a in group for b in group if a < b and homes[a] == homes[b] >= 0}
    for rule in rules.must:
        broken |= {("must", v) for v in rule.vms if homes[v] >= 0 and homes[v] not in rule.hosts}
    return broken


def _draw_rules(rng: np.random.Generator, n_vms: int, n_hosts: int) -> Rules:
    """Random rules that can be kept, or none."""
    if n_vms < 6 or n_hosts < 3:
        return Rules()
    v = rng.permutation(n_vms).tolist()
    hosts = tuple(sorted(rng.choice(n_hosts, n_hosts - 1, replace=False).tolist()))
    return Rules(
        affinity=((v[0], v[1]),),
        anti_affinity=((v[2], v[3]), (v[2], v[4])),
        must=(VmHostRule((v[5], v[2]), hosts),),
        should=(VmHostRule((v[3],), (hosts[0],)),),
    )


@pytest.fixture(scope="session")
def draw_rules() -> Callable[..., Rules]:
    """Random rules that can be kept: ``draw_rules(rng, n_vms, n_hosts)``."""
    return _draw_rules


@pytest.fixture(scope="session")
def broken_rules() -> Callable[..., set[Any]]:
    """What a placement breaks: ``broken_rules(rules, homes)``, homes (V,), -1 = none."""
    return _broken_rules
