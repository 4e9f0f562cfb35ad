"""An agent that turns the platform's thresholds, against the platform with fixed ones, on the same days.

    python -m virtgym.experiments.training.knobs [--timesteps 40000] [--seeds 5] [--scenario demo]

PPO of Stable-Baselines3 (extra ``rl``) with a small network that sees the global columns of the observation
sets the knobs of ``policies.platform`` every interval, on generated days drawn anew in every episode.
It is then played on days that nobody has trained on, and compared day by day with the fixed defaults in the
same environment, so that both are charged the same way. Intervals are over training seeds (Student's t).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import virtgym.envs  # noqa: F401 - registers the environments
from virtgym.envs.arrays import F8
from virtgym.envs.errors import VirtgymError

from ..analysis.stats import mean_interval

Act = Callable[[Any, Any], Any]

POLICY = "virtgym.policies.platform.PlatformPolicy"
FIRST_TEST_DAY = 1000
"""Seed of the first day of the test; training draws its days from the environment's generator."""
MEASURES: tuple[tuple[str, str], ...] = (
    ("reward", "reward"),
    ("energy_kwh", "energy, kWh"),
    ("migrations", "migrations"),
    ("sla_unserved", "unserved, share"),
    ("esv", "ESV"),
)


class GlobalColumns(gym.ObservationWrapper[Any, Any, Any]):
    """The global columns alone: as many for any cluster."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = env.observation_space["globals"]  # type: ignore[index]

    def observation(self, observation: Any) -> Any:
        """Leave the tables of hosts and VMs out."""
        return observation["globals"]


def make_knob_env(scenario: str, day: int | None = None) -> gym.Env[Any, Any]:
    """The environment in which an action sets the platform's thresholds.

    Args:
        scenario: Name of a scenario with a generated trace.
        day: Seed of the one day of every episode; None = a new day in each.
    """
    env: gym.Env[Any, Any] = gym.make(
        "virtgym/Cluster-v0",
        scenario=scenario,
        scenario_seed=day or 0,
        resample_trace=day is None,
        actions="knobs",
        knobs_policy=POLICY,
        disable_env_checker=True,
    )
    return GlobalColumns(env)


def play_days(scenario: str, act: Act, days: Sequence[int]) -> F8:
    """Play days and measure them.

    Args:
        scenario: Name of the scenario.
        act: Action of an observation and its environment.
        days: Seeds of the days, (D,).

    Returns:
        Shape (D, M): one row per day, one column per entry of ``MEASURES``.
    """
    rows = []
    for day in days:
        env = make_knob_env(scenario, day)
        observation, _ = env.reset(seed=0)
        total, over = 0.0, False
        info: dict[str, Any] = {}
        while not over:
            observation, reward, terminated, truncated, info = env.step(act(observation, env))
            total += float(reward)
            over = terminated or truncated
        rows.append([total, *(info["metrics"][key] for key, _ in MEASURES[1:])])
    return np.array(rows)


def train_agent(scenario: str, timesteps: int, seed: int) -> Act:
    """Train PPO on days that are drawn anew.

    Args:
        scenario: Name of the scenario.
        timesteps: Intervals to train on.
        seed: Seed of the agent and of its days.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs = DummyVecEnv([lambda: make_knob_env(scenario)] * 4)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=288,
        batch_size=288,
        gamma=0.95,
        learning_rate=1e-3,
        policy_kwargs={"log_std_init": -1.0},
        seed=seed,
    )
    model.learn(timesteps)
    return lambda observation, env: model.predict(observation, deterministic=True)[0]


def _defaults(observation: Any, env: Any) -> Any:
    return env.unwrapped.knobs.codec.encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, play, compare, print a table."""
    parser = argparse.ArgumentParser(description="An agent on the platform's thresholds against fixed ones.")
    parser.add_argument("--scenario", default="demo", help="a scenario with a generated trace")
    parser.add_argument("--timesteps", type=int, default=40_000, help="intervals to train on, per seed")
    parser.add_argument("--seeds", type=int, default=5, help="agents to train, at least 2")
    parser.add_argument("--days", type=int, default=10, help="days to test on")
    given = parser.parse_args(arguments)
    if given.seeds < 2 or given.timesteps < 1 or given.days < 1:
        print("--seeds must be at least 2, --timesteps and --days at least 1", file=sys.stderr)
        return 2
    days = range(FIRST_TEST_DAY, FIRST_TEST_DAY + given.days)
    try:
        fixed = play_days(given.scenario, _defaults, days)
        gains = []
        for seed in range(given.seeds):
            agent = train_agent(given.scenario, given.timesteps, seed)
            gains.append((play_days(given.scenario, agent, days) - fixed).mean(axis=0))
    except (VirtgymError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print("| | fixed thresholds | agent minus fixed, 95 % over seeds |\n|---|---|---|")
    for m, (_, name) in enumerate(MEASURES):
        spread = mean_interval([gain[m] for gain in gains])
        print(
            f"| {name} | {fixed[:, m].mean():.6g} "
            f"| {spread.estimate:+.4g} [{spread.low:+.4g}, {spread.high:+.4g}] |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
