"""Observations, rewards and configuration of the cluster environment, by hand."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from virtgym.envs.cluster.columns import ConstantColumn, GlobalColumn, RowColumn
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.global_columns import FULL_GLOBAL_COLUMNS, GLOBAL_COLUMNS
from virtgym.envs.cluster.host_columns import FULL_HOST_COLUMNS, HOST_COLUMNS
from virtgym.envs.cluster.rewards import TERMS, RewardTerm, default_weights, register_reward_term, term_of
from virtgym.envs.cluster.schema import ClusterEnvConfig, RewardConfig
from virtgym.envs.cluster.tables import COLUMNS, column_index, columns_of, register_column
from virtgym.envs.cluster.vm_columns import FULL_VM_COLUMNS, VM_COLUMNS
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.scenarios.schema import ScenarioConfig
from virtgym.envs.sim.decisions import Decisions

MakeEnv = Callable[..., ClusterEnv]


@pytest.fixture
def make_env(make_cluster: Any, make_workload: Any) -> MakeEnv:
    """Build an environment of hosts of 2 x 1,000 MHz, 4 GiB, 100 to 200 W, and VMs of 1,000 MHz, 1 GiB."""

    def build(util: Any, n_hosts: int = 2, load: dict[str, Any] | None = None, **kwargs: Any) -> ClusterEnv:
        cluster = {
            k: kwargs.pop(k) for k in list(kwargs) if k in ("arrival_cpu_overcommit", "arrival", "memory")
        }
        for key in ("boot_time_s", "shutdown_time_s"):
            if key in kwargs:
                cluster[key] = kwargs.pop(key)
        scenario = Scenario(
            ScenarioConfig(name="hand", horizon_s=kwargs.pop("horizon_s", 3600.0)),
            make_cluster(n_hosts, **cluster),
            make_workload(util, **(load or {})),
            cast(Any, None),
            0,
        )
        return ClusterEnv(scenario, tables=True, **kwargs)

    return build


def row(table: Any, index: int, columns: Any) -> dict[str, float]:
    """A row by column names."""
    return {column.name: float(value) for column, value in zip(columns, table[index], strict=True)}


@pytest.mark.parametrize(
    ("columns", "key"), [(HOST_COLUMNS, "hosts"), (VM_COLUMNS, "vms"), (GLOBAL_COLUMNS, "globals")]
)
def test_columns_are_documented_and_fill_the_tables(columns: Any, key: str) -> None:
    env = ClusterEnv("small", tables=True)
    space = env.observation_space[key]
    assert space.shape[-1] == len(columns)
    assert len({column.name for column in columns}) == len(columns)
    assert all(column.doc for column in columns)
    np.testing.assert_array_equal(space.high.reshape(-1, len(columns))[0], [c.high for c in columns])
    np.testing.assert_array_equal(space.low.reshape(-1, len(columns))[-1], [c.low for c in columns])
    assert column_index(columns, columns[-1].name) == len(columns) - 1


def test_observation_of_a_small_cluster_by_hand(make_env: MakeEnv) -> None:
    env = make_env([[0.5, 0.25, 1.0]] * 13, load={"mem_mib": [1024.0, 2048.0, 1024.0]})
    observation, _ = env.reset(seed=0)
    # First fit by nominal CPU: VMs 0 and 1 fill host 0, VM 2 goes to host 1.
    assert observation["vm_host"].tolist() == [0, 0, 1]
    host = row(observation["hosts"], 0, HOST_COLUMNS)
    want = {"cpu_load": 0.375, "cpu_demand": 0.375, "memory": 0.75, "nominal": 1.0, "n_incoming": 0.0}
    want |= {"n_vms": np.log(3) / np.log(129), "is_on": 1, "is_off": 0, "is_booting": 0, "draining": 0}
    want |= {"power": 137.5 / 200, "saturated": 0, "target": 0, "holds_chosen": 0, "switchable": 0}
    want |= {"capacity": 1, "core_speed": 1, "memory_capacity": 1, "idle_power": 0.5, "peak_power": 1}
    for name, value in want.items():
        assert host[name] == pytest.approx(value, abs=1e-6), name
    vm = row(observation["vms"], 1, VM_COLUMNS)
    want = {
        "running": 1,
        "waiting": 0,
        "migrating": 0,
        "demand": 0.25,
        "recent_demand": 0.25,
        "granted": 0.25,
    }
    want |= {"missed": 0, "demand_size": 0.125, "age": 0, "moved": 0, "movable": 1, "chosen": 0}
    want |= {"host_load": 0.375, "host_memory": 0.75, "host_share": 0.125, "nominal_size": 0.5}
    want |= {"memory_size": 0.5, "class_weight": 1, "copy_left": 0, "host_saturated": 0}
    for name, value in want.items():
        assert vm[name] == pytest.approx(value, abs=1e-6), name
    whole = row(observation["globals"][None], 0, GLOBAL_COLUMNS)
    want = {"day_sin": 0, "day_cos": 1, "elapsed": 0, "hosts_on": 1, "hosts_booting": 0, "hosts_short": 0}
    want |= {"load": 1.75 / 4, "demand": 1.75 / 4, "memory": 0.5, "power": (137.5 + 150) / 400}
    want |= {"waiting": 0, "migrating": 0, "unserved": 0, "decisions": 0, "choosing_host": 0}
    for name, value in want.items():
        assert whole[name] == pytest.approx(value, abs=1e-6), name


def test_choosing_and_moving_a_vm_shows_in_the_tables(make_env: MakeEnv) -> None:
    env = make_env([[0.5, 0.5, 0.5]] * 13)
    env.reset(seed=0)
    chosen, *_ = env.step(env.codec.encode("vm", 0))
    assert [row(chosen["hosts"], h, HOST_COLUMNS)["target"] for h in (0, 1)] == [0, 1]
    assert [row(chosen["hosts"], h, HOST_COLUMNS)["holds_chosen"] for h in (0, 1)] == [1, 0]
    assert [row(chosen["vms"], v, VM_COLUMNS)["chosen"] for v in range(3)] == [1, 0, 0]
    assert [row(chosen["vms"], v, VM_COLUMNS)["movable"] for v in range(3)] == [0, 0, 0]
    assert row(chosen["globals"][None], 0, GLOBAL_COLUMNS)["choosing_host"] == 1
    moved, *_ = env.step(env.codec.encode("host", 1))
    vm, host = row(moved["vms"], 0, VM_COLUMNS), row(moved["hosts"], 1, HOST_COLUMNS)
    assert (vm["migrating"], vm["moved"], vm["movable"], vm["chosen"]) == (1, 1, 0, 0)
    assert vm["copy_left"] == pytest.approx(1024 / 62.5 / 300)
    assert vm["granted"] == pytest.approx(0.45)  # 10 % is lost while it moves
    assert host["n_incoming"] == pytest.approx(np.log(2) / np.log(129))
    assert host["cpu_load"] == pytest.approx((500 + 50) / 2000)  # the copy costs 10 % of the VM's CPU
    whole = row(moved["globals"][None], 0, GLOBAL_COLUMNS)
    assert whole["migrating"] == pytest.approx(1 / 3)
    assert whole["decisions"] == pytest.approx(2 / env.max_decisions_per_interval)
    after, *_ = env.step(0)
    assert after["vm_host"].tolist() == [1, 0, 1]
    vm = row(after["vms"], 0, VM_COLUMNS)
    assert vm["moved"] == pytest.approx(11 / 12)
    assert vm["missed"] == pytest.approx(50 * 1024 / 62.5 / (500 * 300), rel=1e-5)


def test_memory_of_the_last_interval(make_env: MakeEnv) -> None:
    """Demand 1.0 then 0.5: the weighted mean follows by a fifth; host 0 is short of CPU at first."""
    util = [[1.0, 1.0, 1.0]] + [[0.5, 0.5, 0.5]] * 12
    env = make_env(util, load={"mem_mib": 512.0}, arrival_cpu_overcommit=2.0)
    env.reset(seed=0)
    observation, *_ = env.step(0)
    vm, host = row(observation["vms"], 0, VM_COLUMNS), row(observation["hosts"], 0, HOST_COLUMNS)
    assert vm["recent_demand"] == pytest.approx(0.9)
    assert vm["missed"] == pytest.approx(1 / 3)
    assert (host["saturated"], vm["host_saturated"]) == (1, 1)
    assert row(observation["globals"][None], 0, GLOBAL_COLUMNS)["unserved"] == pytest.approx(1 / 3)
    observation, *_ = env.step(0)
    vm = row(observation["vms"], 0, VM_COLUMNS)
    assert vm["recent_demand"] == pytest.approx(0.82)
    assert (vm["missed"], vm["host_saturated"]) == (0, 0)


def test_power_transitions_show_in_the_tables(make_env: MakeEnv) -> None:
    env = make_env([[0.5]] * 13, boot_time_s=450.0, shutdown_time_s=0.0)
    observation, _ = env.reset(seed=0)
    assert row(observation["hosts"], 1, HOST_COLUMNS)["switchable"] == 1
    observation, *_ = env.step(env.codec.encode("power", 1))
    host = row(observation["hosts"], 1, HOST_COLUMNS)
    assert (host["is_off"], host["power"], host["switchable"]) == (1, 0, 1)
    observation, *_ = env.step(env.codec.encode("power", 1))
    host = row(observation["hosts"], 1, HOST_COLUMNS)
    assert (host["is_booting"], host["transition"], host["switchable"]) == (1, 1.5, 0)
    observation, *_ = env.step(0)
    assert row(observation["hosts"], 1, HOST_COLUMNS)["transition"] == pytest.approx(0.5)


def test_absent_vms_are_empty_rows(make_env: MakeEnv) -> None:
    env = make_env([[0.5, 0.5]] * 13, load={"arrival_s": [0.0, 900.0], "departure_s": [600.0, np.inf]})
    observation, _ = env.reset(seed=0)
    assert observation["vm_host"].tolist() == [0, 2]
    assert not observation["vms"][1, :-3].any()
    for _ in range(3):
        observation, *_ = env.step(0)
    assert observation["vm_host"].tolist() == [2, 0]
    assert not observation["vms"][0, :-3].any()
    assert row(observation["vms"], 1, VM_COLUMNS)["recent_demand"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["small", "demo"])
def test_random_observations_stay_in_their_space(name: str) -> None:
    env = ClusterEnv(name, scenario_overrides={"horizon_s": 7200.0}, resample_trace=True, tables=True)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for _ in range(400):
        assert env.observation_space.contains(observation)
        legal = np.flatnonzero(env.action_masks())
        observation, _, _, over, _ = env.step(
            0 if rng.random() < 0.1 and legal[0] == 0 else rng.choice(legal)
        )
        if over:
            observation, _ = env.reset()


def test_observations_and_masks_are_fresh_memory() -> None:
    env = ClusterEnv("small", tables=True)
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    mask = env.action_masks()
    mask[:] = False
    assert env.action_masks().any()
    second, *_ = env.step(0)
    for key in first:
        np.testing.assert_array_equal(first[key], kept[key])
        assert not np.shares_memory(first[key], second[key])
        second[key][...] = 0
    third, *_ = env.step(env.codec.encode("vm", 0))
    assert third["hosts"].any()
    assert third["vms"].any()


def test_reward_of_an_interval_by_hand(make_env: MakeEnv) -> None:
    env = make_env([[0.5, 0.5]] * 13, load={"mem_mib": 625.0})
    env.reset(seed=0)
    env.step(env.codec.encode("vm", 1))
    _, reward, _, _, _ = env.step(env.codec.encode("host", 1))
    assert reward == 0.0
    _, reward, _, _, info = env.step(0)
    # 10 s of copying: host 0 at 1,000 of 2,000 MHz, host 1 at 50; then 500 each. 100 W + 100 W * load.
    energy_j = 10 * (150 + 102.5) + 290 * (125 + 125)
    costs = {
        "cost_energy": energy_j / 3.6e6,
        "cost_unserved": 0.5 * 3 * 50 * 10 / 3.6e6,  # 50 MHz for 10 s, of the standard class
        "cost_migrations": 0.001,
        **dict.fromkeys(("cost_outage", "cost_latency", "cost_dropped", "cost_carbon"), 0.0),
    }
    want = {
        "cost": sum(costs.values()),
        **costs,
        "energy": energy_j / (400 * 300),
        "energy_kwh": energy_j / 3.6e6,
        "unserved": 50 * 10 / (1000 * 300),
        "migrations": 0.5,
        "violations": 0.0,
        "power_actions": 0.0,
        **dict.fromkeys(("downtime", "restarts", "ready", "swap", "illegal"), 0.0),
    }
    assert {name: info["reward_terms"][name] for name in want} == pytest.approx(want)
    assert info["reward_terms"].keys() == TERMS.keys()
    assert reward == pytest.approx(-want["cost"])
    assert info["step_metrics"]["energy_kwh"] == pytest.approx(energy_j / 3.6e6)
    assert info["step_metrics"]["migrations"] == 1
    assert info["step_metrics"]["active_hosts"] == pytest.approx(2)


def test_shortage_and_power_actions_in_the_reward_by_hand(make_env: MakeEnv) -> None:
    weights = {"cost": 0, "unserved": -3, "violations": -5, "power_actions": -7}
    env = make_env([[1.0] * 3] * 13, load={"mem_mib": 512.0}, arrival_cpu_overcommit=2.0, reward=weights)
    env.reset(seed=0)
    # Host 0 holds all three VMs: 3,000 MHz asked of 2,000, all the time; host 1 is empty and switched off.
    _, reward, _, _, info = env.step(Decisions(power_off=np.array([1])))
    assert info["reward_terms"]["unserved"] == pytest.approx(1 / 3)
    assert info["reward_terms"]["violations"] == pytest.approx(1.0)
    assert info["reward_terms"]["power_actions"] == pytest.approx(0.5)
    assert reward == pytest.approx(-1 - 5 - 3.5)


def test_rewards_add_up_to_the_weighted_terms() -> None:
    env = ClusterEnv(
        "small", scenario_overrides={"horizon_s": 6000.0}, reward={"illegal": -0.25, "energy_kwh": -2.0}
    )
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    total, terms = 0.0, dict.fromkeys(TERMS, 0.0)
    over = False
    while not over:
        action = 0 if rng.random() < 0.05 else int(rng.integers(env.codec.n))
        _, reward, _, over, info = env.step(action)
        total += reward
        for name, value in info.get("reward_terms", {}).items():
            terms[name] += value
    assert terms["illegal"] == info["illegal_actions"] > 0
    assert total == pytest.approx(sum(env.reward_weights[name] * value for name, value in terms.items()))
    assert terms["energy_kwh"] == pytest.approx(info["metrics"]["energy_kwh"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": {"enrgy": -1}}, r"env\.reward=enrgy: did you mean energy.*\? allowed: "),
        ({"reward": {"energy": float("nan")}}, r"env\.reward\.energy=nan: must be a finite number"),
        ({"actions": "both"}, r"env\.actions=both: must be one of unrolled, knobs"),
        ({"max_decisions_per_interval": 0}, r"env\.max_decisions_per_interval=0: must be at least 1"),
        ({"arrival": "nowhere"}, r"cluster\.arrival=nowhere: must be one of"),
        ({"scenario": "planetlab_cloudsim3"}, "does not run in an environment"),
        ({"scenario": "smal"}, r"did you mean small"),
        ({"actions": "knobs", "knobs_policy": "virtgym.nowhere.Policy"}, r"env\.knobs_policy=virtgym"),
        ({"actions": "knobs", "knobs_policy": "builtins.object"}, "has no reset, plan, set_knobs"),
    ],
)
def test_impossible_settings_name_the_key(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterEnv(**kwargs)


def test_schema_and_environment_have_the_same_keys_and_defaults() -> None:
    parameters = dict(itertools.islice(inspect.signature(ClusterEnv).parameters.items(), 1, None))
    schema = {k: v for k, v in vars(ClusterEnvConfig()).items() if k not in ("_target_", "_convert_", "id")}
    assert parameters.keys() == schema.keys()
    assert vars(RewardConfig()) == default_weights()
    for name, parameter in parameters.items():
        if name != "reward":
            assert schema[name] == parameter.default, name


@pytest.mark.parametrize("name", ["cluster", "cluster_knobs", "cluster_candidates"])
def test_shipped_configurations_fit_the_schema_and_make_an_environment(name: str) -> None:
    from importlib import resources

    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError

    shipped = OmegaConf.create((resources.files("virtgym.conf") / "env" / f"{name}.yaml").read_text())
    config = OmegaConf.merge(OmegaConf.structured(ClusterEnvConfig), shipped)
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(config, {"reward": {"enrgy": 1.0}})
    env = instantiate(config, scenario="small")
    env.reset(seed=0)
    assert "time_s" in env.step(env.action_space.sample() if name == "cluster_knobs" else 0)[4]
    assert env.unwrapped.reward_weights == default_weights()


def test_the_documentation_names_every_column_and_term(repo_dir: Path) -> None:
    text = (repo_dir / "docs" / "environment.md").read_text(encoding="utf-8")
    full = (*FULL_HOST_COLUMNS, *FULL_VM_COLUMNS, *FULL_GLOBAL_COLUMNS)
    for column in (*HOST_COLUMNS, *VM_COLUMNS, *GLOBAL_COLUMNS, *full):
        assert f"| `{column.name}` | {column.low:g}…{column.high:g} | {column.doc} |" in text
    for term in map(term_of, TERMS):
        assert f"| `{term.name}` | {term.weight:g} | {term.doc} |" in text
    for columns, key in ((HOST_COLUMNS, "hosts"), (VM_COLUMNS, "vms"), (GLOBAL_COLUMNS, "globals")):
        shape = {"hosts": "(H, ", "vms": "(V, ", "globals": "("}[key] + str(len(columns))
        assert f"### `{key}`, shape {shape}" in text
    more = {"hosts": FULL_HOST_COLUMNS, "vms": FULL_VM_COLUMNS, "globals": FULL_GLOBAL_COLUMNS}
    for key, columns in more.items():
        assert f"### `{key}` with the full model: {len(columns)} more" in text
    for name in inspect.signature(ClusterEnv).parameters:
        assert f"| `{name}` |" in text


@pytest.fixture
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (COLUMNS, TERMS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.usefixtures("nothing_stays_registered")
def test_columns_of_ones_own_follow_the_others(make_env: MakeEnv) -> None:
    plain = make_env([[0.5, 0.25, 1.0]] * 13, load={"mem_mib": [1024.0, 2048.0, 1024.0]})
    before, _ = plain.reset(seed=0)
    free = RowColumn(
        "free_memory", 1, "free memory / memory", lambda p, s, b, h: 1.0 - s.host_mem_mib[h] * b.inv_mem[h]
    )
    register_column("hosts", free)
    register_column("hosts", ConstantColumn("three", 2, "clipped", lambda p: 3.0))
    register_column("vms", RowColumn("is_last", 1, "1: the last", lambda p, s, b, v: v == 2, often=True))
    register_column("globals", GlobalColumn("minus", 0, "clipped", lambda p, s, b: -2, low=-1))
    env = make_env([[0.5, 0.25, 1.0]] * 13, load={"mem_mib": [1024.0, 2048.0, 1024.0]})
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    own = {"hosts": [[0.25, 2.0], [0.75, 2.0]], "vms": [[0], [0], [1]], "globals": [-1]}
    for key, values in own.items():
        width = before[key].shape[-1]
        np.testing.assert_array_equal(observation[key][..., :width], before[key])
        np.testing.assert_allclose(observation[key][..., width:], np.array(values))
    assert [c.name for c in columns_of(full=True).hosts[-2:]] == ["free_memory", "three"]
    for table, column, message in (
        (
            "hosts",
            replace(free, name="memory"),
            "column=hosts/memory: ships with virtgym",
        ),
        ("racks", free, "column free_memory.table=racks: must be one of hosts, vms, globals"),
        ("globals", free, "column free_memory: a RowColumn has no place in globals"),
    ):
        with pytest.raises(ConfigError, match=message):
            register_column(table, column)


@pytest.mark.usefixtures("nothing_stays_registered")
def test_a_reward_term_of_ones_own_is_added_up(make_env: MakeEnv) -> None:
    term = RewardTerm("arrivals", -2.0, "VMs that came / V", lambda d, c, illegal: d.arrivals / c.n_vms)
    register_reward_term(term)
    with pytest.raises(ConfigError, match=r"env\.reward=energy: ships with virtgym"):
        register_reward_term(replace(term, name="energy"))
    load = {"arrival_s": [0.0, 400.0, 500.0]}
    reward = {name: 0.0 for name in TERMS if name != "arrivals"}
    env = make_env([[0.5, 0.5, 0.5]] * 13, load=load, reward=reward)
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(3)]
    assert [info["reward_terms"]["arrivals"] for *_, info in steps] == pytest.approx([0, 2 / 3, 0])
    assert [step[1] for step in steps] == pytest.approx([0, -4 / 3, 0])
    assert env.reward_weights["arrivals"] == -2.0
