"""Hot standby: slowdown and logging by hand, limits and domains, take-over, invariants over random lives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.standby import (
    BOTH_LOST,
    PROMOTED,
    SECONDARY_LOST,
    STANDBY_REASONS,
    UNTOUCHED,
    StandbyConfig,
    StandbyHosts,
    check_secondary,
    count_protected,
    place_secondaries,
    standby_costs,
    standby_load,
    take_over,
    work_share,
)

MANY = settings(max_examples=200, deadline=None, derandomize=True)


def i4(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


def test_checkpoints_by_hand() -> None:
    config = StandbyConfig(epoch_s=0.025, fixed_pause_s=0.002, copy_mib_s=1000.0)
    loss, log = standby_costs(config, np.array([0.0, 120.0]), np.zeros(2), np.zeros(2))
    # 120 MiB/s for 25 ms = 3 MiB, 3 ms to copy: 5 ms of 30 ms; 3 MiB every 30 ms = 100 MiB/s.
    assert loss == pytest.approx([2 / 27, 5 / 30], rel=1e-12)
    assert log == pytest.approx([0.0, 100 * 8.388608], rel=1e-12)


def test_lockstep_by_hand() -> None:
    loss, log = standby_costs(StandbyConfig("lockstep"), np.zeros(1), np.array([5.0]), np.array([60.0]))
    assert loss.tolist() == [0.1]
    assert log == pytest.approx([120.0])


def test_a_slow_log_slows_the_vm() -> None:
    needed, granted = np.array([0.0, 100.0, 100.0, 100.0]), np.array([0.0, 200.0, 25.0, 0.0])
    assert work_share(np.full(4, 0.2), needed, granted) == pytest.approx([0.8, 0.8, 0.2, 0.0])


@given(st.floats(0, 5000), st.floats(1.0, 4.0), st.floats(0.001, 1.0))
@MANY
def test_more_dirt_costs_more_and_longer_epochs_less(dirty: float, factor: float, epoch: float) -> None:
    def loss(config: StandbyConfig, rate: float) -> float:
        return float(standby_costs(config, np.array([rate]), np.zeros(1), np.zeros(1))[0][0])

    short, long = StandbyConfig(epoch_s=epoch), StandbyConfig(epoch_s=epoch * factor)
    assert 0 <= loss(short, dirty) <= loss(short, dirty * factor) * (1 + 1e-12) < 1 + 1e-12
    assert loss(long, dirty) <= loss(short, dirty) * (1 + 1e-12)


def check(h: int = 1, cpu: float = 10.0, mem: float = 10.0, **change: Any) -> int:
    hosts = StandbyHosts(
        np.array([True, True, False]),
        np.array([[0, -1], [1, -1], [2, -1]], dtype=np.int32),
        np.full(3, 10.0),
        np.full(3, 10.0),
        i4(0, 0, 0),
        i4(0, 0, 0),
    )
    return int(check_secondary(hosts._replace(**change), 0, h, 2, cpu, mem, 4, 8))


def test_every_reason_against_a_host() -> None:
    feeds = np.array([[0, 5], [1, 5], [2, 6]], dtype=np.int32)
    cases = {
        0: check(),
        1: check(h=2),
        2: check(h=0),
        3: check(domains=feeds),
        4: check(vms=i4(0, 4, 0)),
        5: check(vcpus=i4(0, 7, 0)),
        6: check(mem=11),
        7: check(cpu=11),
        8: check(vms=i4(4, 0, 0)),
    }
    assert cases == {code: code for code in STANDBY_REASONS}
    assert check(vcpus=i4(7, 0, 0)) == 8
    assert check(vcpus=i4(6, 6, 0)) == 0


def test_take_over_by_hand() -> None:
    host, second, codes = i4(0, 1, 0, 2, 0, -1), i4(1, 0, 3, 3, -1, 1), np.empty(6, dtype=np.int8)
    take_over(np.array([True, False, False, True]), host, second, codes)
    assert codes.tolist() == [PROMOTED, SECONDARY_LOST, BOTH_LOST, SECONDARY_LOST, UNTOUCHED, UNTOUCHED]
    assert host.tolist() == [1, 1, -1, 2, 0, -1]
    assert second.tolist() == [-1, -1, -1, -1, -1, 1]


def slow_place(vms: Any, s: dict[str, Any], domains: Any, on: Any) -> list[int]:
    second = [-1] * len(s["host"])
    for v in vms:
        for h in range(len(on)):
            a = s["host"][v]
            apart = all(x < 0 or x != y for x, y in zip(domains[h], domains[a]))
            limits = all(s["n"][e] < 4 and s["c"][e] + s["vcpus"][v] <= 8 for e in (a, h))
            if (
                on[h]
                and h != a
                and apart
                and limits
                and s["mem"][v] <= s["fm"][h]
                and s["cpu"][v] <= s["fc"][h]
            ):
                second[v] = h
                s["fm"][h] -= s["mem"][v]
                s["fc"][h] -= s["cpu"][v]
                for e in (a, h):
                    s["n"][e] += 1
                    s["c"][e] += s["vcpus"][v]
                break
    return second


def random_case(rng: np.random.Generator) -> dict[str, Any]:
    n, m = int(rng.integers(2, 8)), int(rng.integers(1, 15))
    return {
        "on": rng.random(n) < 0.85,
        "domains": rng.integers(-1, 3, (n, 2)).astype(np.int32),
        "host": rng.integers(0, n, m).astype(np.int32),
        "vcpus": rng.integers(1, 5, m).astype(np.int32),
        "cpu": rng.integers(1, 9, m).astype(float),
        "mem": rng.integers(1, 9, m).astype(float),
        "free": rng.integers(0, 30, (2, n)).astype(float),
    }


def place(c: dict[str, Any], vms: Any) -> tuple[Any, Any, Any, Any]:
    n = len(c["on"])
    free, counts = c["free"].copy(), np.zeros((2, n), dtype=np.int32)
    second = np.full(len(c["host"]), -1, dtype=np.int32)
    hosts = StandbyHosts(c["on"], c["domains"], free[0], free[1], counts[0], counts[1])
    started = place_secondaries(hosts, vms, c["host"], c["vcpus"], c["cpu"], c["mem"], 4, 8, second)
    assert started == np.count_nonzero(second >= 0)
    return second, free, counts[0], counts[1]


def test_placement_equals_plain_python_and_keeps_the_books() -> None:
    rng = np.random.default_rng(41)
    for _ in range(1000):
        c = random_case(rng)
        n, m = len(c["on"]), len(c["host"])
        vms = rng.permutation(m).astype(np.int32)
        second, free, count_vms, count_vcpus = place(c, vms)
        books = {
            "host": c["host"].tolist(),
            "vcpus": c["vcpus"].tolist(),
            "cpu": c["cpu"].tolist(),
            "mem": c["mem"].tolist(),
            "fc": c["free"][0].tolist(),
            "fm": c["free"][1].tolist(),
            "n": [0] * n,
            "c": [0] * n,
        }
        assert second.tolist() == slow_place(vms.tolist(), books, c["domains"].tolist(), c["on"])
        vms_of, vcpus_of = count_protected(c["host"], second, c["vcpus"], n)
        assert np.array_equal(vms_of, count_vms)
        assert np.array_equal(vcpus_of, count_vcpus)
        assert vms_of.max() <= 4
        assert vcpus_of.max() <= 8
        cpu, mem = standby_load(second, c["cpu"], c["mem"], n)
        assert np.array_equal(c["free"][0] - cpu, free[0])
        assert np.array_equal(c["free"][1] - mem, free[1])


@given(st.integers(0, 2**32 - 1))
@MANY
def test_one_failure_domain_never_takes_both_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = random_case(rng)
    second = place(c, np.arange(len(c["host"]), dtype=np.int32))[0]
    for kind in range(2):
        for domain in range(3):
            host, pair, codes = c["host"].copy(), second.copy(), np.empty(len(second), dtype=np.int8)
            take_over(c["domains"][:, kind] == domain, host, pair, codes)
            assert not np.any(codes == BOTH_LOST)
            was = second >= 0
            down = c["domains"][c["host"], kind] == domain
            assert np.array_equal(codes == PROMOTED, was & down)
            assert np.array_equal(host[was & down], second[was & down])


def test_take_over_equals_plain_python() -> None:
    rng = np.random.default_rng(43)
    for _ in range(1000):
        n, m = 5, 8
        failed = rng.random(n) < 0.4
        host = rng.integers(-1, n, m).astype(np.int32)
        second = np.where(rng.random(m) < 0.6, (host + rng.integers(1, n, m)) % n, -1).astype(np.int32)
        a, b, codes = host.copy(), second.copy(), np.empty(m, dtype=np.int8)
        take_over(failed, a, b, codes)
        for v in range(m):
            protected = host[v] >= 0 and second[v] >= 0
            first, other = protected and failed[host[v]], protected and failed[second[v]]
            want = {
                (False, False): (UNTOUCHED, host[v], second[v]),
                (True, False): (PROMOTED, second[v], -1),
                (False, True): (SECONDARY_LOST, host[v], -1),
                (True, True): (BOTH_LOST, -1, -1),
            }[bool(first), bool(other)]
            assert (codes[v], a[v], b[v]) == want


def test_bad_values_name_their_key() -> None:
    for change, text in (
        ({"mode": "raid"}, "standby.mode=raid: must be one of checkpoint, lockstep"),
        ({"epoch_s": 0}, "standby.epoch_s=0"),
        ({"max_vms": 0}, "standby.max_vms=0"),
        ({"lockstep_loss": 2}, "standby.lockstep_loss=2"),
    ):
        with pytest.raises(ConfigError, match=text):
            StandbyConfig(**change)
