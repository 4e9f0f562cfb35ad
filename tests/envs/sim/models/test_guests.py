"""Guest profiles, and the parameters of all sub-models: off costs nothing, on has all that its room reads."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.guests import GUEST_PROFILES, GuestProfile, IoProfile
from virtgym.envs.sim.models.carbon import CarbonSeries
from virtgym.envs.sim.models.compatibility import CPU_LEVELS, CpuLevels
from virtgym.envs.sim.models.failures import (
    HOST_FAILS,
    HOST_REPAIRED,
    VM_CRASHES,
    FailureConfig,
    FailureDomain,
    Incident,
    replay_outages,
)
from virtgym.envs.sim.models.io_path import IoConfig, IoMode, mode_table
from virtgym.envs.sim.models.memory import MemoryConfig, MemoryProfile
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.overhead import (
    GuestVirtualization,
    HostVirtualization,
    InstructionProfile,
    OverheadConfig,
)
from virtgym.envs.sim.models.power import PowerConfig, PowerCurve
from virtgym.envs.sim.models.precopy import PrecopyConfig, precopy_params
from virtgym.envs.sim.models.recovery import RecoveryConfig
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.state.build import domain_columns, make_params
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.faults import sample_faults
from virtgym.envs.sim.state.fields import fields_of
from virtgym.envs.sim.state.parameters import ClusterParams
from virtgym.envs.sim.workload import Workload

NAN = float("nan")
DAY_S = 86_400.0

EVERYTHING: dict[str, Any] = {
    "overhead": OverheadConfig(),
    "cpu": SchedulingConfig(co_stop=0.25),
    "numa": NumaConfig(cpu_overcommit=4.0),
    "memory": "multiplexed",
    "io": IoConfig(),
    "migration": PrecopyConfig(max_mbps=500.0),
    "failures": FailureConfig(),
    "standby": StandbyConfig(),
}


def one_line(error: pytest.ExceptionInfo[ConfigError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: IoProfile(mode="sriov"), "io.mode=sriov"),
        (lambda: IoProfile(net_out_mbps=(-1.0, 0.0)), "io.net_out_mbps[0]"),
        (lambda: IoProfile(net_in_mbps=(0.0, NAN)), "io.net_in_mbps[1]"),
        (lambda: IoProfile(disk_read_mb_s=(0.0,)), "io.disk_read_mb_s: needs 2"),  # type: ignore[arg-type]
        (lambda: IoProfile(packet_bytes=0.0), "io.packet_bytes"),
        (lambda: IoProfile(request_kib=-1.0), "io.request_kib"),
        (lambda: IoProfile(functions=0), "io.functions"),
        (lambda: GuestProfile(name=" "), "profile.name"),
        (lambda: GuestProfile(instructions="gaming"), "profile default.instructions=gaming"),
        (lambda: GuestProfile(stall_share=1.1), "profile default.stall_share"),
        (lambda: GuestProfile(working_share=-0.1), "profile default.working_share"),
        (lambda: GuestProfile(dirty_mib_s=(0.0, -1.0)), "profile default.dirty_mib_s[1]"),
        (lambda: GuestProfile(restart_priority=0.5), "profile default.restart_priority"),  # type: ignore[arg-type]
    ],
)
def test_profiles_are_checked(make: Any, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    one_line(error, key)


def test_profiles_by_name_say_who_they_are() -> None:
    assert {"default", "web", "batch", "database", "idle"} <= set(GUEST_PROFILES)
    assert all(profile.name == name for name, profile in GUEST_PROFILES.items())
    assert GUEST_PROFILES["database"].stalls == 0.6
    assert replace(GUEST_PROFILES["database"], stall_share=0.2).stalls == 0.2
    own = InstructionProfile((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0))
    assert GuestProfile(instructions=own).operations is own
    assert GuestProfile(instructions=own).stalls == 0.3


def test_vms_have_one_profile_unless_told(make_workload: Any) -> None:
    load = make_workload([[0.5, 0.5]])
    assert load.profiles == (GUEST_PROFILES["default"],)
    assert load.vm_profile.tolist() == [0, 0]
    assert load.vm_profile.dtype == np.int32
    for bad in (np.array([0, 1]), np.array([-1, 0]), np.array([0]), np.array([0.0, 0.0])):
        with pytest.raises(ConfigError, match=r"^workload test: vm_profile must [^\n]*$"):
            replace(load, vm_profile=bad)
    with pytest.raises(ConfigError, match="profiles: needs at least one"):
        replace(load, profiles=())


def made(config: ClusterConfig, load: Workload) -> dict[str, Any]:
    return make_params(config, load)._asdict()


def test_off_costs_nothing(make_cluster: Any, make_workload: Any) -> None:
    p = made(make_cluster(3), make_workload([[0.5, 0.5]]))
    assert p["full"] == 0
    assert [p[name] for name in p if name.startswith("has_")] == [0] * 10
    owned = {name for name, field in fields_of(ClusterParams).items() if field.part}
    empty = {name for name, value in p.items() if isinstance(value, np.ndarray) and not value.size}
    assert empty == {name for name in owned if isinstance(p[name], np.ndarray)} | {"protected_vms"}
    assert not any(p[name] for name in owned - empty)


@pytest.mark.parametrize("kind", [ClusterParams, ClusterState])
def test_every_array_is_declared_with_its_shape(kind: Any) -> None:
    declared = fields_of(kind)
    for name, hint in get_type_hints(kind).items():
        assert name in declared or hint in (int, float), name
    assert all(field.dims or field.record for field in fields_of(ClusterState).values())


@pytest.mark.parametrize("switch", sorted(EVERYTHING))
def test_each_switch_turns_on_its_own(make_cluster: Any, make_workload: Any, switch: str) -> None:
    config = make_cluster(3, **{switch: EVERYTHING[switch]})
    p = made(config, make_workload([[0.5, 0.5]]))
    names = {"memory": "has_tiers", "migration": "has_precopy"}
    flag = names.get(switch, f"has_{switch}")
    assert [name for name in p if name.startswith("has_") and p[name]] == [flag]
    assert p["full"] == 1
    shape = {
        "overhead": ("vm_virt_type", (2,)),
        "cpu": ("vm_shares", (2,)),
        "numa": ("node_cores", (3,)),
        "memory": ("vm_touched_share", (2,)),
        "io": ("vm_io_mode", (2,)),
        "migration": ("host_slots", (3,)),
        "failures": ("vm_priority", (2,)),
        "standby": ("vm_protected", (2,)),
    }
    for key, (name, expected) in shape.items():
        assert p[name].shape == (expected if key == switch else (0,)), name


def test_what_copies_and_mirrors_need_is_there_without_io(make_cluster: Any, make_workload: Any) -> None:
    for extra in ({"migration": PrecopyConfig()}, {"standby": StandbyConfig()}):
        p = made(make_cluster(2, **extra), make_workload([[0.5]]))
        assert p["drive"].shape == (1, 10)
        assert p["host_nic_mbps"].tolist() == [1000.0, 1000.0]


def two_kinds(host_type: HostType, make_workload: Any, **changes: Any) -> tuple[ClusterConfig, Workload]:
    """Two host types and two kinds of guests, everything on."""
    big = replace(
        host_type,
        name="big",
        cores=8,
        core_mhz=2000.0,
        memory_mib=16_384.0,
        nic_mbps=10_000.0,
        numa_nodes=4,
        io_functions=2,
        curve=PowerCurve("fan", idle_w=50.0, peak_w=150.0, exponent=1.5),
    )
    config = ClusterConfig(
        (replace(host_type, numa_nodes=2), big),
        np.array([0, 1, 1], dtype=np.int32),
        power=PowerConfig(standby_share=0.1, pue=1.5),
        recovery=RecoveryConfig(boot_s=42.0),
        spares=(2,),
        restart="policy",
        domains=(FailureDomain("rack", (0, 1), 100.0, 1.0), FailureDomain("feed", (1, 2), 100.0, 1.0)),
        **{**EVERYTHING, **changes},
    )
    busy = GuestProfile(
        name="busy",
        instructions="io_bound",
        virtualization=GuestVirtualization("para"),
        cpu=CpuControl(200.0, 900.0, "high"),
        memory=MemoryProfile(touched_share=0.8, active_share=0.4, domain="x", reservation_mib=100.0),
        io=IoProfile("passthrough", (1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), 1000.0, 64.0, 2),
        dirty_mib_s=(9.0, 10.0),
        working_share=0.25,
        restart_priority=7,
        protected=True,
    )
    load = make_workload([[0.5, 0.5]], vcpus=[1, 2], mem_mib=[1024.0, 2048.0])
    return config, replace(load, profiles=(GuestProfile(), busy), vm_profile=np.array([0, 1], dtype=np.int32))


def test_every_value_lands_where_kernels_look(host_type: HostType, make_workload: Any) -> None:
    config, load = two_kinds(host_type, make_workload)
    p = made(config, load)
    assert all(v.flags.c_contiguous for v in p.values() if isinstance(v, np.ndarray))
    assert p["co_stop"] == 0.25
    assert p["vm_virt_type"].tolist() == [2, 1]
    assert p["vm_reservation_mhz"].tolist() == [0.0, 200.0]
    assert p["vm_limit_mhz"].tolist() == [math.inf, 900.0]
    assert p["vm_shares"].tolist() == [1000.0, 2 * 2000.0]
    assert p["host_nodes"].tolist() == [2, 4, 4]
    assert p["node_cores"].tolist() == [1.0, 2.0, 2.0]
    assert p["vm_stall_share"].tolist() == [0.3, 0.2]
    assert p["numa_moves"] == 150  # 300 s / 2 s
    assert MemoryConfig().costs._asdict().items() <= p.items()
    assert p["vm_touched_share"].tolist() == [1.0, 0.8]
    assert p["vm_mem_reservation_mib"].tolist() == [0.0, 100.0]
    assert p["vm_domain"].tolist() == [-1, 0]
    assert p["io_table"].tolist() == mode_table(IoConfig()).tolist()
    assert p["io_slice_s"] == pytest.approx(0.03)
    assert p["vm_functions"].tolist() == [0, 2]
    assert p["host_functions"].tolist() == [64, 2, 2]
    assert p["vm_pinned"].tolist() == [0, 1]
    assert p["drive"][1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert p["vm_packet_mbit"][1] == pytest.approx(0.008)
    assert p["vm_request_mb"][1] == pytest.approx(0.065536)
    assert isinstance(config.migration, PrecopyConfig)
    assert precopy_params(config.migration)._asdict().items() <= p.items()
    assert p["copy_max_mbps"] == 500.0
    assert p["host_slots"].tolist() == [4, 8, 8]
    assert p["vm_working_mib"].tolist() == [102.4, 512.0]
    assert p["curve_kind"].tolist() == [0, 2]
    assert p["curve_exponent"].tolist() == [1.0, 1.5]
    assert p["standby_w"].tolist() == [10.0, 5.0, 5.0]
    assert p["pue"] == 1.5
    assert p["vm_boot_s"] == 42.0
    assert p["restart_rule"] == 1
    assert p["vm_priority"].tolist() == [0, 7]
    assert p["host_is_spare"].tolist() == [0, 0, 1]
    assert p["host_domains"].tolist() == [[0, -1], [0, 1], [-1, 1]]
    assert p["vm_protected"].tolist() == [0, 1]
    mirrors = [value for name, value in p.items() if name.startswith("mirror_")]
    assert mirrors == [0, 0.025, 0.002, 2048.0, 0.1, 1.0, 4, 8]


def test_a_migratable_device_pins_nobody(host_type: HostType, make_workload: Any) -> None:
    io = IoConfig(passthrough=IoMode(1, 1500, 2000, 3, 200, migratable=True))
    config, load = two_kinds(host_type, make_workload, io=io)
    assert made(config, load)["vm_pinned"].tolist() == [0, 0]


def test_memory_binds_on_nodes_where_it_binds_on_hosts(host_type: HostType, make_workload: Any) -> None:
    config, load = two_kinds(host_type, make_workload)
    assert made(config, load)["node_mem_mib"].tolist() == [math.inf] * 3
    assert made(replace(config, memory="binding"), load)["node_mem_mib"].tolist() == [
        2048.0,
        4096.0,
        4096.0,
    ]


def test_signals_come_in_the_model_s_units(make_cluster: Any, make_workload: Any) -> None:
    load = make_workload([[0.5, 0.5], [0.1, 0.1]])
    one = np.ones((2, 2))
    signals = {
        "memory_active": 1.5 * one,
        "net_tx_mbit_s": 3 * one,
        "net_rx_mbit_s": 4 * one,
        "disk_read_mbit_s": 16 * one,
        "disk_write_mbit_s": 8 * one,
        "dirty_mib_s": 9 * one,
        "disk_busy": one,
    }
    p = made(make_cluster(2, **EVERYTHING), replace(load, signals=signals))
    found = {name: p[name][0, 0] for name in p if name.startswith("sig_")}
    assert found == {
        "sig_active": 1.0,
        "sig_net_out": 3.0,
        "sig_net_in": 4.0,
        "sig_disk_read": 2.0,
        "sig_disk_write": 1.0,
        "sig_dirty": 9.0,
    }
    off = made(make_cluster(2), replace(load, signals=signals))
    assert all(off[name].shape == (0, 0) for name in off if name.startswith("sig_"))
    for bad, words in ((-one, "at least 0"), (one * NAN, "finite"), (np.ones((1, 2)), "shape")):
        with pytest.raises(ConfigError, match=rf"^workload test: signal net_tx_mbit_s [^\n]*{words}"):
            made(make_cluster(2, io=IoConfig()), replace(load, signals={"net_tx_mbit_s": bad}))


def test_levels_become_features_and_baselines(host_type: HostType, make_workload: Any) -> None:
    levels = CpuLevels(CPU_LEVELS)
    bits = dict(zip(levels.names, levels.bits()))
    kinds = tuple(replace(host_type, name=name, cpu_level=name) for name in ("haswell", "skylake"))
    config = ClusterConfig(kinds, np.array([0, 1], dtype=np.int32))
    load = make_workload([[0.5]])
    p = made(config, load)
    assert p["host_features"].tolist() == [bits["haswell"], bits["skylake"]]
    assert p["host_baseline"].tolist() == p["host_features"].tolist()
    held = made(replace(config, evc_level="westmere"), load)
    assert held["host_baseline"].tolist() == [bits["westmere"]] * 2
    with pytest.raises(ConfigError) as error:
        made(replace(config, evc_level="zen2"), load)
    one_line(error, "evc_level=zen2", "haswell")


def test_carbon_starts_where_its_offset_says(make_cluster: Any, make_workload: Any) -> None:
    series = CarbonSeries(np.array([1.0, 2.0]), "test", step_s=900.0, offset_s=600.0)
    p = made(make_cluster(1, carbon=series), make_workload([[0.5]]))
    assert (p["carbon_g_kwh"].tolist(), p["carbon_start_s"], p["carbon_sample_s"]) == ([1, 2], -600.0, 900.0)


def with_profile(load: Workload, **changes: Any) -> Workload:
    return replace(load, profiles=(GuestProfile(name="x", **changes),))


@pytest.mark.parametrize(
    ("cluster", "guest", "words"),
    [
        (
            {"virtualization": HostVirtualization(types=("full",))},
            {},
            ("profile x.virtualization.type=hardware_assisted", "on offer: full"),
        ),
        (
            {"virtualization": HostVirtualization(extension=False)},
            {},
            ("profile x.virtualization.type=hardware_assisted", "no virtualization extension"),
        ),
        (
            {},
            {"virtualization": GuestVirtualization("os_level", kernel="bsd")},
            ("profile x.virtualization.kernel=bsd", "there are: linux"),
        ),
        (
            {"cpu": SchedulingConfig()},
            {"cpu": CpuControl(3000.0)},
            ("profile x.cpu.reservation_mhz=3000.0", "2000.0 MHz"),
        ),
        (
            {"cpu": SchedulingConfig()},
            {"cpu": CpuControl(1500.0)},
            ("profile x.cpu.reservation_mhz=1500.0", "vm 0 has 1 vCPUs"),
        ),
        (
            {"memory": "multiplexed"},
            {"memory": MemoryProfile(reservation_mib=5000.0)},
            ("profile x.memory.reservation_mib=5000.0", "4096.0 MiB"),
        ),
        (
            {"memory": "multiplexed"},
            {"memory": MemoryProfile(reservation_mib=2000.0)},
            ("profile x.memory.reservation_mib=2000.0", "vm 0 has 1024.0 MiB"),
        ),
        (
            {"io": IoConfig(functions_per_host=1)},
            {"io": IoProfile("passthrough", functions=2)},
            ("profile x.io.functions=2", "the most is 1"),
        ),
        (
            {"standby": StandbyConfig(), "n_hosts": 1},
            {"protected": True},
            ("profile x.protected", "second host"),
        ),
    ],
)
def test_what_no_host_has_is_refused(
    make_cluster: Any, make_workload: Any, cluster: Any, guest: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        made(make_cluster(**cluster), with_profile(make_workload([[0.5]]), **guest))
    one_line(error, *words)


def test_a_wide_vm_cannot_be_protected(make_cluster: Any, make_workload: Any) -> None:
    load = with_profile(make_workload([[0.5]], vcpus=9), protected=True)
    with pytest.raises(ConfigError) as error:
        made(make_cluster(standby=StandbyConfig()), load)
    one_line(error, "profile x.protected", "9 vCPUs", "max_vcpus=8")


def test_a_guest_that_suits_some_hosts_needs_the_table(host_type: HostType, make_workload: Any) -> None:
    kinds = (host_type, replace(host_type, name="old", virtualization=HostVirtualization(extension=False)))
    config = ClusterConfig(kinds, np.array([0, 1], dtype=np.int32))
    p = made(config, make_workload([[0.5]]))
    assert p["host_extension"].tolist() == [1, 0]
    assert p["has_overhead"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spares": (2,)}, "recovery.spares=2"),
        ({"spares": (-1,)}, "recovery.spares=-1"),
        ({"spares": (0, 0)}, "named twice"),
        ({"spares": (0, 1)}, "must not be a spare"),
        ({"domains": (FailureDomain("a", (0, 5), 1.0, 1.0),)}, "failures.domain a.hosts=5"),
        ({"replayed": replay_outages(np.array([3]), np.zeros(1), np.ones(1), 9)}, "host 3"),
        ({"restart": "best_fit"}, "must be one of first_fit, policy"),
        ({"evc_level": "haswell"}, "needs a cpu_level of every host type"),
        ({"evc_level": "z80"}, "no such level"),
        ({"cpu_level": "z80"}, "host type test.cpu_level=z80"),
        ({"numa_nodes": 3}, "host type test.numa_nodes=3"),
        ({"numa_nodes": 0}, "host type test.numa_nodes=0"),
        ({"io_functions": -1}, "host type test.io_functions=-1"),
    ],
)
def test_impossible_clusters(make_cluster: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_cluster(2, **changes)
    one_line(error, words)


def test_levels_are_for_all_or_none(host_type: HostType) -> None:
    kinds = (replace(host_type, cpu_level="zen"), replace(host_type, name="b"))
    with pytest.raises(ConfigError, match=r"^host type b\.cpu_level: give every host type a level, or none$"):
        ClusterConfig(kinds, np.array([0, 1], dtype=np.int32))


@given(st.lists(st.sets(st.integers(0, 7), min_size=1), max_size=6))
def test_two_hosts_share_a_domain_where_a_column_says_so(sets: list[set[int]]) -> None:
    domains = tuple(FailureDomain(str(i), tuple(sorted(s)), 1.0, 1.0) for i, s in enumerate(sets))
    columns = domain_columns(domains, 8)
    assert columns.shape[0] == 8
    assert columns.dtype == np.int32
    for a in range(8):
        assert sorted(columns[a][columns[a] >= 0]) == [i for i, s in enumerate(sets) if a in s]
        for b in range(8):
            shared = bool(((columns[a] >= 0) & (columns[a] == columns[b])).any())
            assert shared == any(a in s and b in s for s in sets)


def test_faults_are_sorted_alternate_and_come_from_the_generator(make_cluster: Any) -> None:
    failures = FailureConfig("exponential", mtbf_h=24.0, mttr_h=2.0, vm_mtbf_h=100.0)
    config = make_cluster(5, failures=failures)
    horizon = 30 * DAY_S
    times, items, kinds = sample_faults(config, 7, horizon, np.random.default_rng(1))
    assert [a.dtype.name for a in (times, items, kinds)] == ["float64", "int32", "int8"]
    order = np.lexsort((items, kinds, times))
    assert order.tolist() == list(range(len(times)))
    for host in range(5):
        mine = kinds[(items == host) & (kinds != VM_CRASHES)]
        assert mine.tolist() == ([HOST_FAILS, HOST_REPAIRED] * len(mine))[: len(mine)]
        assert len(mine) > 10
    assert times[kinds != HOST_REPAIRED].max() < horizon
    assert set(items[kinds == VM_CRASHES].tolist()) <= set(range(7))
    again = sample_faults(config, 7, horizon, np.random.default_rng(1))
    other = sample_faults(config, 7, horizon, np.random.default_rng(2))
    assert np.array_equal(times, again[0])
    assert not np.array_equal(times[:10], other[0][:10])


def test_crashes_of_vms_change_no_host_s_failure(make_cluster: Any) -> None:
    runs = []
    for vm_mtbf_h in (None, 50.0):
        config = make_cluster(4, failures=FailureConfig("exponential", mtbf_h=50.0, vm_mtbf_h=vm_mtbf_h))
        times, _, kinds = sample_faults(config, 9, 20 * DAY_S, np.random.default_rng(3))
        runs.append(times[kinds != VM_CRASHES].tolist())
    assert runs[0] == runs[1]


def test_no_generator_or_no_failures_is_no_faults(make_cluster: Any) -> None:
    rng = np.random.default_rng(0)
    for config, source in ((make_cluster(2), rng), (make_cluster(2, failures=FailureConfig()), None)):
        faults = sample_faults(config, 3, DAY_S, source)
        assert [(len(a), a.dtype.name) for a in faults] == [(0, "float64"), (0, "int32"), (0, "int8")]
    with pytest.raises(ConfigError, match="horizon_s=inf"):
        sample_faults(make_cluster(2, failures=FailureConfig()), 3, math.inf, rng)


def test_replayed_outages_and_incidents_strike(make_cluster: Any) -> None:
    hosts, begin, end = np.array([0, 1, 0]), np.array([10.0, 20.0, 9e9]), np.array([30.0, math.inf, 9.1e9])
    config = make_cluster(
        2,
        failures=FailureConfig("none"),
        replayed=replay_outages(hosts, begin, end, 2),
        incidents=(Incident(100.0, 50.0, 1.0),),
    )
    events = [list(a) for a in sample_faults(config, 1, 1000.0, np.random.default_rng(0))]
    assert list(zip(*events)) == [
        (10.0, 0, HOST_FAILS),
        (20.0, 1, HOST_FAILS),  # never repaired
        (30.0, 0, HOST_REPAIRED),
        (100.0, 0, HOST_FAILS),
        (150.0, 0, HOST_REPAIRED),
    ]
