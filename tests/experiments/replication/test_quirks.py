"""The replica's switches, replays, seeds and error messages, on generated days."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.experiments.replication import Quirks, run_replica
from virtgym.experiments.replication.ablation import ablate_quirks, ablation_cases, to_markdown
from virtgym.experiments.replication.live import Flags
from virtgym.experiments.replication.metrics import DecisionLog, ReplicaResult
from virtgym.experiments.replication.quirks import QUIRK_TEXT
from virtgym.experiments.replication.replica import REPLICA_POLICIES

HOSTS = 60
NAMES = [field.name for field in fields(Quirks)]


@pytest.fixture(scope="module")
def day() -> np.ndarray:
    """80 VMs with bursts and pauses."""
    rng = np.random.default_rng(3)
    level = rng.gamma(1.0, 18.0, size=(80, 1))
    burst = np.repeat(rng.gamma(2.0, 0.5, size=(80, 48)), 6, axis=1)
    percent = np.clip(np.rint(level * burst + rng.normal(0, 3, size=(80, 288))), 0, 100)
    percent[:, 100:][rng.random((80, 188)) < 0.02] = 0
    return percent.astype(np.int16)


def numbers(result: ReplicaResult) -> dict[str, Any]:
    """All that a result row would hold."""
    return {key: value for key, value in vars(result).items() if key not in ("events", "decisions")}


def test_switches_are_named_the_same_everywhere() -> None:
    assert list(Flags._fields) == NAMES == list(QUIRK_TEXT)
    assert all(asdict(Quirks()).values())
    assert not any(asdict(Quirks.none()).values())


@pytest.mark.parametrize("name", NAMES)
def test_each_switch_changes_something(name: str, day: np.ndarray) -> None:
    """A host whose VMs ask for nothing only exists while such VMs are kept."""
    base = replace(Quirks(), drop_zero_demand=name != "idle_hosts_are_off")
    on = run_replica(day, "lr-mmt", base, n_hosts=HOSTS)
    off = run_replica(day, "lr-mmt", replace(base, **{name: not getattr(base, name)}), n_hosts=HOSTS)
    assert numbers(on) != numbers(off)


@pytest.mark.parametrize("quirks", [Quirks(), Quirks.none()])
@pytest.mark.parametrize("policy", ["lr-mmt", "mad-rs"])
def test_replay_of_its_own_decisions(policy: str, quirks: Quirks, day: np.ndarray) -> None:
    run = run_replica(day, policy, quirks, record=True, n_hosts=HOSTS)
    replay = run_replica(day, "thr-mu", quirks, decisions=run.decisions, n_hosts=HOSTS)
    assert numbers(replay) == numbers(run)
    assert replay.events.energy_kwh.tolist() == run.events.energy_kwh.tolist()


def test_nothing_but_the_seed_is_random(day: np.ndarray) -> None:
    runs = [run_replica(day, "thr-rs", seed=seed, n_hosts=HOSTS) for seed in (4, 4, 5)]
    assert numbers(runs[0]) == numbers(runs[1]) != numbers(runs[2])
    fixed = [run_replica(day, "thr-mc", seed=seed, n_hosts=HOSTS) for seed in (4, 5)]
    assert numbers(fixed[0]) == numbers(fixed[1])


def test_unweighted_variants_are_one_policy(day: np.ndarray) -> None:
    lr, lrr, ols = (
        numbers(run_replica(day, name, n_hosts=HOSTS)) for name in ("lr-mmt", "lrr-mmt", "ols-mmt")
    )
    assert lr == lrr == ols
    weighted = replace(Quirks(), unweighted_regression=False)
    real = [numbers(run_replica(day, name, weighted, n_hosts=HOSTS)) for name in ("lr-mmt", "lrr-mmt")]
    assert real[0] != real[1]
    assert numbers(run_replica(day, "ols-mmt", weighted, n_hosts=HOSTS)) == ols


def test_safety_changes_the_detector(day: np.ndarray) -> None:
    default, same, other = (
        numbers(run_replica(day, "thr-mmt", safety=s, n_hosts=HOSTS)) for s in (None, 0.8, 0.6)
    )
    assert default == same != other


def test_no_power_management_by_hand(day: np.ndarray) -> None:
    """Every host at full power until the last instant, or until the day ends."""
    watts = HOSTS / 2 * (117 + 135)
    assert run_replica(day, "npa", n_hosts=HOSTS).energy_kwh == pytest.approx(watts * 86100.1 / 3.6e6)
    assert run_replica(day, "npa", Quirks.none(), n_hosts=HOSTS).energy_kwh == pytest.approx(
        watts * 86400 / 3.6e6
    )


def test_one_migration_by_hand() -> None:
    """Four VMs of one type each, 10 % constant; the fourth moves from host 1 to host 0 in round 2."""
    day = np.full((4, 288), 10)
    log = DecisionLog(np.array([1, 1, 1, 1]), np.array([2]), np.array([3]), np.array([0]))
    result = run_replica(day, "thr-mmt", Quirks.none(), decisions=log, n_hosts=4)
    busy, delay, rest = 600.0, 613 / 62.5, 86400 - 600 - 613 / 62.5

    def g5(mhz: float) -> float:
        return float(np.interp(mhz / 5320, [0.1, 0.2], [97.0, 101.0]))

    def g4(mhz: float) -> float:
        return float(np.interp(mhz / 3720, [0.0, 0.1], [86.0, 89.4]))

    joules = g5(600) * busy + (g5(600) + g4(5)) * delay + (g5(550) + g4(50)) * rest
    assert result.energy_kwh == pytest.approx(joules / 3.6e6, rel=1e-12)
    assert result.migrations == 1
    assert result.host_shutdowns == 0
    assert result.slatah == 0
    assert result.pdm == pytest.approx(0.1 * delay / 86400 / 4)
    assert result.sla_unserved == pytest.approx(0.1 * 50 * delay / (600 * 86400))
    assert result.active_hosts == pytest.approx((86400 + delay + rest) / 86400)


def test_real_shortage_by_hand() -> None:
    """Three VMs ask for 3 x 1,860 of 3,720 MHz: each gets two thirds, and the host violates all day."""
    day = np.zeros((4, 288))
    day[0] = 74.4
    day[1] = 93.0
    log = DecisionLog(
        np.array([0, 0, 1, 1]), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )
    exact = run_replica(day, "thr-mmt", Quirks.none(), decisions=log, n_hosts=2)
    assert exact.slatah == 0
    assert exact.sla_unserved == pytest.approx(0.0)
    day[2] = 50.0
    log = replace(log, initial=np.array([0, 0, 0, 1]))
    short = run_replica(day, "thr-mmt", Quirks.none(), decisions=log, n_hosts=2)
    assert short.slatah == pytest.approx(0.5)  # the other host is active, not short
    assert short.sla_unserved == pytest.approx(500 / (1860 + 1860 + 500))
    floored = run_replica(day, "thr-mmt", replace(Quirks.none(), floor_mips=True), decisions=log, n_hosts=2)
    granted = np.floor(1860 * 3720 / 4220) * 2 + np.floor(500 * 3720 / 4220)
    assert floored.sla_unserved == pytest.approx(1 - granted / 4220)


def test_ablation_table(day: np.ndarray) -> None:
    small = day[:24]
    table = ablate_quirks(small, ["thr-mmt"])
    assert table["case"].tolist() == [name for name, _ in ablation_cases()]
    text = to_markdown(table).splitlines()
    assert len(text) == len(table) + 2
    assert text[2].startswith("| thr-mmt | all on (CloudSim 3.0.3) |")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "thr"}, "thr-mmt"),
        ({"policy": "thr-xyz"}, "ols-"),
        ({"util_percent": np.zeros((3, 10))}, "288"),
        ({"util_percent": np.full((3, 288), 101)}, "between 0 and 100"),
        ({"util_percent": np.full((3, 288), np.nan)}, "between 0 and 100"),
        ({"safety": 0.0}, "positive"),
        ({"n_hosts": 2}, "fits on none of the 2 hosts"),
    ],
)
def test_errors_say_what_is_allowed(arguments: dict[str, Any], words: str) -> None:
    defaults: dict[str, Any] = {"util_percent": np.full((30, 288), 5), "policy": "thr-mmt", "n_hosts": 40}
    with pytest.raises(ConfigError, match=words):
        run_replica(**{**defaults, **arguments})


@pytest.mark.parametrize(
    "change",
    [
        {"initial": np.zeros(3, int)},
        {"dest": np.array([4])},
        {"vm": np.array([-1])},
        {"round": np.array([288])},
    ],
)
def test_impossible_logs_are_refused(change: dict[str, Any]) -> None:
    log = DecisionLog(np.array([1, 1, 1, 1]), np.array([2]), np.array([3]), np.array([0]))
    with pytest.raises(ConfigError, match="decisions"):
        run_replica(
            np.full((4, 288), 5), "thr-mmt", Quirks.none(), decisions=replace(log, **change), n_hosts=4
        )


def test_names() -> None:
    assert len(REPLICA_POLICIES) == 22
    assert {"npa", "dvfs", "thr-mmt", "lrr-rs"} <= set(REPLICA_POLICIES)
