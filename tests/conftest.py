"""Shared fixtures: where the real traces are, and small clusters to build a case from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload

REPO = Path(__file__).resolve().parent.parent

MakeCluster = Callable[..., ClusterConfig]
MakeWorkload = Callable[..., Workload]
MakeSimulator = Callable[..., Simulator]


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
    """

    def build(n_hosts: int = 2, **changes: Any) -> ClusterConfig:
        fields = HostType.__dataclass_fields__
        kind = replace(host_type, **{k: changes.pop(k) for k in list(changes) if k in fields})
        changes.setdefault("host_types", (kind,))
        changes.setdefault("host_type_of", np.zeros(n_hosts, dtype=np.int32))
        return ClusterConfig(**changes)

    return build


@pytest.fixture(scope="session")
def make_workload() -> MakeWorkload:
    """Build a ``Workload`` from demand (S, V), or one number per VM that holds for ever.

    Every other column takes a number for all VMs or one per VM; the defaults are one vCPU of 1,000 MHz,
    1,024 MiB, there from 0 for ever.
    """

    def build(
        util: Any,
        sample_s: float = 300.0,
        cpu_mhz: Any = 1000.0,
        vcpus: Any = 1,
        mem_mib: Any = 1024.0,
        arrival_s: Any = 0.0,
        departure_s: Any = np.inf,
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
