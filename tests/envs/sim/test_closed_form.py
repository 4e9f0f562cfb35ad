"""Cases small enough to work out by hand.

The host, unless a case says otherwise: two cores of 1,000 MHz, 4 GiB, 100 W idle, 200 W at full load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig
from virtgym.envs.sim.decisions import REASONS, Decisions
from virtgym.envs.sim.models.power import BOOTING, OFF, ON, SHUTTING_DOWN, SPEC_POWER_W
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import MIG_COPYING, MIG_WAITING, PENDING, RUNNING

TEN_MIB_S = MigrationConfig(bandwidth_mbps=83.88608)
COPY_S = 102.4  # of 1,024 MiB at 10 MiB/s


def indices(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int32)


def move(vm: int, host: int, **more: Any) -> Decisions:
    return Decisions(move_vm=indices(vm), move_host=indices(host), **more)


def test_a_day_idle_and_half_loaded(make_sim: Any) -> None:
    sim = make_sim([[1.0]], n_hosts=2, horizon_s=86_400.0)
    sim.run()
    assert sim.state.host_energy_j.tolist() == pytest.approx([150.0 * 86_400, 100.0 * 86_400])
    metrics = sim.metrics()
    assert metrics["energy_kwh"] == pytest.approx(6.0)
    assert metrics["active_hosts"] == pytest.approx(2.0)
    assert metrics["imbalance_cpu"] == pytest.approx(0.25)  # loads 0.5 and 0
    assert metrics["imbalance_mem"] == pytest.approx(0.125)  # 1/4 and 0
    for name in ("slatah", "pdm", "slav", "esv", "sla_unserved", "migrations", "downtime_s", "thrash"):
        assert metrics[name] == 0.0, name
    assert metrics["vm_availability"] == 1.0


def test_power_between_the_points_of_a_table(make_sim: Any) -> None:
    for name, table in SPEC_POWER_W.items():
        for demand in (0.0, 0.25, 0.5, 1.0):
            sim = make_sim([[demand]], 1, power_w=name, load={"cpu_mhz": 2000.0, "vcpus": 2})
            want = np.interp(demand, np.linspace(0, 1, 11), table)
            assert sim.state.host_power_now_w[0] == pytest.approx(want, rel=1e-12)


def test_full_power(make_sim: Any) -> None:
    sim = make_sim([[0.5]], 1)
    sim.step(Decisions(full_power=indices(0)))
    assert sim.state.host_energy_j[0] == pytest.approx(200.0 * 300)


def test_one_migration(make_sim: Any) -> None:
    sim = make_sim([[1.0]], horizon_s=300.0, migration=TEN_MIB_S)
    sim.apply(move(0, 1))
    assert sim.state.vm_mig[0] == MIG_COPYING
    assert sim.state.vm_mig_end_s[0] == pytest.approx(COPY_S)
    assert sim.state.vm_granted_mhz[0] == pytest.approx(900.0)
    assert sim.state.host_mem_mib.tolist() == [1024.0, 1024.0]  # both ends hold it
    sim.advance()
    rest = 300.0 - COPY_S
    # The source works at half load until it is over; the copy costs 100 MHz of 2,000 at the destination.
    assert sim.state.host_energy_j[0] == pytest.approx(150.0 * COPY_S + 100.0 * rest)
    assert sim.state.host_energy_j[1] == pytest.approx(105.0 * COPY_S + 150.0 * rest)
    assert sim.state.host_active_s.tolist() == pytest.approx([COPY_S, 300.0])
    assert sim.state.vm_mig_lost[0] == pytest.approx(100.0 * COPY_S)
    assert sim.state.vm_missed[0] == pytest.approx(100.0 * COPY_S)
    assert sim.state.vm_host[0] == 1
    assert sim.state.host_mem_mib.tolist() == [0.0, 1024.0]
    metrics = sim.metrics()
    assert metrics["pdm"] == pytest.approx(0.1 * COPY_S / 300.0)
    assert metrics["sla_unserved"] == pytest.approx(0.1 * COPY_S / 300.0)
    assert metrics["migrations"] == 1
    assert metrics["migration_data_gib"] == pytest.approx(1.0)


def test_the_default_rate_is_half_a_gigabit(make_sim: Any) -> None:
    sim = make_sim([[1.0]], load={"mem_mib": 870.0})
    sim.apply(move(0, 1))
    assert sim.state.vm_mig_end_s[0] == pytest.approx(870.0 / 62.5)


def test_a_host_is_switched_off_when_its_last_vm_has_left(make_sim: Any) -> None:
    sim = make_sim([[0.0]], horizon_s=300.0, migration=TEN_MIB_S, shutdown_time_s=60.0, shutdown_power_w=80.0)
    sim.apply(move(0, 1, power_off=indices(0)))
    assert sim.state.host_drain[0] == 1
    sim.advance()
    assert sim.state.host_power_state.tolist() == [OFF, ON]
    assert sim.state.host_energy_j[0] == pytest.approx(100.0 * COPY_S + 80.0 * 60.0)
    assert sim.metrics()["host_shutdowns"] == 1
    assert sim.metrics()["active_hosts"] == pytest.approx((300.0 + COPY_S) / 300.0)


def test_a_switch_off_can_be_taken_back(make_sim: Any) -> None:
    sim = make_sim([[0.0]], horizon_s=300.0, migration=TEN_MIB_S)
    sim.apply(move(0, 1, power_off=indices(0)))
    sim.apply(Decisions(power_on=indices(0)))
    sim.advance()
    assert sim.state.host_power_state.tolist() == [ON, ON]
    assert sim.metrics()["host_shutdowns"] == 0


def test_shortage_is_shared_in_proportion(make_sim: Any) -> None:
    load = {"cpu_mhz": [1500.0, 1000.0], "vcpus": 2}
    sim = make_sim([[1.0, 1.0]], 1, horizon_s=600.0, load=load, arrival_cpu_overcommit=2.0)
    assert sim.state.vm_granted_mhz.tolist() == pytest.approx([1200.0, 800.0])
    sim.run()
    assert sim.state.vm_missed.tolist() == pytest.approx([300.0 * 600, 200.0 * 600])
    assert sim.metrics()["sla_unserved"] == pytest.approx(0.2)
    assert sim.state.host_energy_j[0] == pytest.approx(200.0 * 600)
    assert sim.metrics()["slatah"] == 1.0


def test_exactly_full_is_not_short(make_sim: Any) -> None:
    sim = make_sim([[1.0, 1.0]], 1)
    sim.run()
    assert sim.state.host_ask_mhz[0] == 2000.0
    assert sim.metrics()["slatah"] == 0.0
    assert sim.metrics()["sla_unserved"] == 0.0


def test_a_vcpu_gets_no_more_than_a_core(make_sim: Any) -> None:
    sim = make_sim([[1.0]], 1, load={"cpu_mhz": 1500.0})
    assert sim.state.vm_ask_mhz[0] == 1000.0
    sim.run()
    assert sim.metrics()["sla_unserved"] == pytest.approx(1 / 3)
    assert sim.metrics()["slatah"] == 0.0  # the host has CPU to spare
    wide = make_sim([[1.0]], 1, load={"cpu_mhz": 1500.0, "vcpus": 2})
    wide.run()
    assert wide.metrics()["sla_unserved"] == 0.0


def test_boot_and_the_downtime_of_who_waits_for_it(make_sim: Any) -> None:
    sim = make_sim([[1.0]], hosts_start_on=False, boot_time_s=240.0, boot_power_w=170.0)
    assert sim.state.host_power_state.tolist() == [BOOTING, OFF]
    assert sim.state.vm_state[0] == PENDING
    sim.run()
    assert sim.state.host_energy_j.tolist() == pytest.approx([170.0 * 240 + 150.0 * 3360, 0.0])
    metrics = sim.metrics()
    assert metrics["downtime_s"] == pytest.approx(240.0)
    assert metrics["vm_availability"] == pytest.approx(1 - 240 / 3600)
    assert metrics["sla_unserved"] == pytest.approx(240 / 3600)
    assert metrics["failed_placements"] == 0
    assert metrics["active_hosts"] == pytest.approx(3360 / 3600)


def test_boot_power_is_by_default_half_way_and_shutdown_power_idle(make_sim: Any) -> None:
    sim = make_sim([[0.0]], 3, boot_time_s=100.0, shutdown_time_s=50.0)
    sim.step(Decisions(power_off=indices(1, 2)))
    sim.step(Decisions(power_on=indices(2)))
    assert sim.state.host_energy_j[1] == pytest.approx(100.0 * 50)
    assert sim.state.host_energy_j[2] == pytest.approx(100.0 * 50 + 150.0 * 100 + 100.0 * 200)


def test_a_migration_waits_for_its_destination_to_boot(make_sim: Any) -> None:
    sim = make_sim([[1.0]], horizon_s=600.0, boot_time_s=240.0, migration=TEN_MIB_S)
    sim.step(Decisions(power_off=indices(1)))
    assert sim.state.host_power_state[1] == OFF
    sim.apply(move(0, 1, power_on=indices(1)))
    assert sim.state.vm_mig[0] == MIG_WAITING
    sim.advance(230.0)
    assert sim.state.vm_mig[0] == MIG_WAITING
    assert sim.state.vm_granted_mhz[0] == 1000.0  # waiting costs nothing
    sim.advance(20.0)
    assert sim.state.vm_mig_end_s[0] == pytest.approx(300.0 + 240.0 + COPY_S)


def test_slatah_and_pdm_of_two_hosts(make_sim: Any) -> None:
    # Host 0 holds VMs 0 and 2 and is short in the first of two samples, host 1 never.
    load = {"cpu_mhz": [2000.0, 1000.0, 1000.0], "vcpus": 2}
    demand = [[1.0, 1.0, 1.0], [0.5, 1.0, 0.5]]
    sim = make_sim(demand, horizon_s=600.0, load=load, arrival="policy", arrival_cpu_overcommit=2.0)
    sim.apply(Decisions(place_vm=indices(0, 1, 2), place_host=indices(0, 1, 0)))
    sim.run()
    assert sim.state.host_sat_s.tolist() == [300.0, 0.0]
    assert sim.metrics()["slatah"] == pytest.approx((300 / 600 + 0 / 600) / 2)
    assert sim.metrics()["pdm"] == 0.0
    # Demand 3,000 of 2,000 for 300 s: 1,000 MHz missing.
    assert sim.metrics()["sla_unserved"] == pytest.approx(1000 * 300 / (3000 * 300 + 1500 * 300 + 1000 * 600))

    moved = make_sim(demand[1:], horizon_s=600.0, load=load, migration=TEN_MIB_S, arrival="worst_fit")
    assert moved.state.vm_host.tolist() == [0, 1, 1]
    moved.apply(move(1, 0))
    moved.run()
    # One VM of three lost a tenth of its CPU for 102.4 of 600 s.
    assert moved.metrics()["pdm"] == pytest.approx(0.1 * COPY_S / 600 / 3)
    slav = moved.metrics()["slatah"] * moved.metrics()["pdm"]
    assert moved.metrics()["slav"] == slav
    assert moved.metrics()["esv"] == moved.metrics()["energy_kwh"] * slav


def test_a_vm_that_waits_for_the_policy(make_sim: Any) -> None:
    sim = make_sim([[0.5]], horizon_s=600.0, arrival="policy", load={"arrival_s": 100.0})
    sim.step()
    assert sim.state.vm_state[0] == PENDING
    sim.step(Decisions(place_vm=indices(0), place_host=indices(1)))
    metrics = sim.metrics()
    assert metrics["downtime_s"] == pytest.approx(200.0)
    assert metrics["vm_availability"] == pytest.approx(1 - 200 / 500)
    assert metrics["sla_unserved"] == pytest.approx(200 / 500)
    assert sim.state.vm_host[0] == 1
    assert sim.state.host_active_s.tolist() == pytest.approx([0.0, 300.0])


def test_a_vm_that_does_not_fit_tries_again_at_every_interval(make_sim: Any) -> None:
    load = {"mem_mib": 3000.0, "departure_s": [400.0, np.inf], "arrival_s": [0.0, 50.0]}
    sim = make_sim([[0.5, 0.5]], 1, horizon_s=900.0, load=load)
    sim.run()
    assert sim.metrics()["failed_placements"] == 1
    assert sim.state.vm_down_s.tolist() == pytest.approx([0.0, 550.0])  # from 50 to 600


def test_who_leaves_makes_room_for_who_arrives_at_the_same_instant(make_sim: Any) -> None:
    load = {"mem_mib": 3000.0, "arrival_s": [0.0, 450.0], "departure_s": [450.0, np.inf]}
    sim = make_sim([[0.5, 0.5]], 1, horizon_s=900.0, load=load)
    sim.run()
    assert sim.metrics()["failed_placements"] == 0
    assert sim.metrics()["downtime_s"] == 0.0
    assert sim.state.vm_requested.tolist() == pytest.approx([500 * 450, 500 * 450])


def test_a_departure_aborts_a_copy(make_sim: Any) -> None:
    sim = make_sim([[1.0]], horizon_s=300.0, migration=TEN_MIB_S, load={"departure_s": 60.0})
    sim.step(move(0, 1, power_off=indices(0)))
    assert sim.state.host_n_in.tolist() == [0, 0]
    assert sim.state.host_mem_mib.tolist() == [0.0, 0.0]
    assert sim.state.host_power_state.tolist() == [OFF, ON]
    assert sim.state.host_energy_j.tolist() == pytest.approx([150.0 * 60, 105.0 * 60 + 100.0 * 240])
    assert sim.metrics()["migration_data_gib"] == pytest.approx(60 * 10 / 1024)  # what was sent counts
    assert sim.metrics()["migrations"] == 1


def test_thrash_counts_moves_back_within_twelve_intervals(make_sim: Any) -> None:
    for wait, thrash in ((1, 1), (12, 1), (13, 0)):
        sim = make_sim([[0.1]], horizon_s=30_000.0)
        sim.step(move(0, 1))
        for _ in range(wait - 1):
            sim.step()
        sim.step(move(0, 0))
        assert sim.metrics()["thrash"] == thrash, wait


@pytest.mark.parametrize(
    ("rule", "hosts"),
    [("first_fit", [0, 0, 0]), ("worst_fit", [2, 2, 2]), ("best_fit", [0, 0, 0]), ("pabfd", [1, 1, 1])],
)
def test_arrival_rules(make_workload: Any, rule: str, hosts: list[int]) -> None:
    # Three hosts of 4, 4 and 8 cores: the second needs least power, the third has most room.
    types = tuple(
        HostType(str(i), cores, 1000.0, 65536.0, power, boot_time_s=0.0, shutdown_time_s=0.0)
        for i, (cores, power) in enumerate([(4, (100.0, 200.0)), (4, (50.0, 100.0)), (8, (150.0, 350.0))])
    )
    config = ClusterConfig(types, np.arange(3, dtype=np.int32), arrival=rule)
    sim = Simulator(config, make_workload([[0.5, 0.5, 0.5]], cpu_mhz=[1000.0, 2000.0, 1000.0]))
    assert sim.state.vm_host.tolist() == hosts


def test_every_reason_of_refusal(make_sim: Any) -> None:
    load = {
        "mem_mib": [3000.0, 3000.0, 100.0, 3000.0, 100.0],
        "cpu_mhz": [1000.0, 1000.0, 900.0, 100.0, 1500.0],
    }
    rules = {"arrival": "policy", "arrival_core_speed": True, "migration": TEN_MIB_S, "shutdown_time_s": 60.0}
    sim = make_sim([[0.5] * 5], 4, load=load, **rules)
    first = Decisions(place_vm=indices(0, 1, 2), place_host=indices(0, 1, 1), power_off=indices(3))
    assert sim.apply(first) == []

    def place(vm: int, host: int) -> Decisions:
        return Decisions(place_vm=indices(vm), place_host=indices(host))

    for orders, code in (
        (move(99, 0), 1),
        (move(0, -1), 1),
        (place(3, 99), 1),
        (Decisions(power_on=indices(99)), 1),
        (Decisions(full_power=indices(-1)), 1),
        (Decisions(power_off=indices(4)), 1),
        (move(3, 0), 2),
        (move(0, 0), 4),
        (move(0, 3), 5),
        (move(0, 1), 6),
        (place(0, 1), 8),
        (Decisions(power_on=indices(0)), 9),
        (Decisions(power_off=indices(0)), 10),
        (Decisions(power_off=indices(3)), 11),
        (place(3, 0), 6),
        (place(4, 2), 13),
    ):
        (refusal,) = sim.apply(orders)
        assert refusal.code == code, orders
        assert REASONS[code] in str(refusal)
    assert sim.apply(move(2, 2)) == []
    assert [r.code for r in sim.apply(move(2, 0))] == [3]
    assert [r.code for r in sim.apply(Decisions(power_off=indices(2)))] == [10]  # somebody comes
    assert sim.apply(move(0, 2, power_off=indices(0))) == []
    assert [r.code for r in sim.apply(place(4, 0))] == [7]
    assert [r.code for r in sim.apply(Decisions(power_off=indices(0)))] == [7]
    full = make_sim([[0.5] * 3], 1, load={"mem_mib": 100.0}, arrival="policy", memory="ignored")
    (refusal,) = full.apply(Decisions(place_vm=indices(0, 1, 2), place_host=indices(0, 0, 0)))
    assert refusal.code == 12
    assert full.state.vm_state.tolist() == [RUNNING, RUNNING, PENDING]


def test_memory_binds_or_not(make_sim: Any) -> None:
    for memory, codes in (("binding", [6]), ("ignored", [])):
        sim = make_sim([[0.5, 0.5]], load={"mem_mib": 3000.0}, memory=memory)
        assert sim.state.vm_host.tolist() == [0, 1]  # at arrival it always binds
        assert [r.code for r in sim.apply(move(0, 1))] == codes


def test_shutting_down_takes_its_time(make_sim: Any) -> None:
    sim = make_sim([[0.5]], shutdown_time_s=400.0)
    sim.step(Decisions(power_off=indices(1)))
    assert sim.state.host_power_state[1] == SHUTTING_DOWN
    (refusal,) = sim.apply(Decisions(power_on=indices(1)))
    assert refusal.code == 9
    sim.step()
    assert sim.state.host_power_state[1] == OFF


def test_hosts_all_alike_are_in_balance(make_sim: Any) -> None:
    sim = make_sim([[0.7] * 5], 5, arrival="worst_fit", load={"mem_mib": 1000.3})
    sim.run()
    assert sim.metrics()["imbalance_cpu"] == 0.0
    assert sim.metrics()["imbalance_mem"] == 0.0
