"""Typed schema of a training: every key that ``virtgym train`` takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from virtgym.envs.checks import hint, need
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.rewards import REWARDS
from virtgym.policies.learned.architecture import CANDIDATES

from ..config.compose import check_numbers
from ..config.schema import ScenarioNode
from .settings.base import AgentConfig, check_whole
from .trackers import tracker_names

DEVICES = ("auto", "cpu", "cuda")


@dataclass
class TrainConfig:
    """Every key of ``virtgym train``.

    Attributes:
        scenario: What is played, of kind placement, cluster or rescheduling (group ``conf/scenario``).
        agent: The learner and its settings (group ``agent``, made of ``AGENTS``).
        total_timesteps: Decisions to train for.
        seed: Seed of everything random.
        seeds: Several, each trained in a folder of its own, in a batch where the agent can: numbers, and
            ranges like ``0..9``.
        num_envs: Environments that step together.
        env: Of clusters, arguments of the environment: those of ``config.env.env_options``.
        mix: Of clusters, scenarios that are played besides, by name; a suite stands for its cluster tasks.
            Keys of ``scenario`` that are typed hold for all.
        fallback: Of clusters, policies of which the best on training seeds, by kind of cluster, plays unless
            the agent is sure.
        margins: How much better than its plan a candidate must score; the best on validation is kept.
        reward: Of placement, the reward of training, one of ``REWARDS``; survival games pay 1 a request.
        wait_scale_s: Of placement, the scale T of rewards, s.
        eval_every: Decisions between evaluations on what training does not play.
        checkpoint_every: Decisions between checkpoints; 0 = at evaluations.
        tensorboard: Whether to write TensorBoard's event files.
        tracker: Where curves go: ``tensorboard``, ``wandb``, ``mlflow``, several, or ``none``; None =
            TensorBoard where it is installed.
        device: Where networks learn: ``cpu``, ``cuda``, or ``auto``, the GPU if there is one.
        initial: Folder of an agent whose weights training begins with.
        import_zip: Likewise a zip of Stable-Baselines3, which is code: only what you trust. The command line
            calls it ``import``.
        launcher: What trains (group ``conf/launcher``).
        workers: Of a sweep, trainings at once; None = the launcher's own.
        out: Run folder; None = ``runs/<agent>-<scenario>-<date>-<time>``.
    """

    scenario: ScenarioNode = field(default_factory=ScenarioNode)
    agent: Any = field(default_factory=AgentConfig)
    total_timesteps: int = 1_000_000
    seed: int = 0
    seeds: Any = None
    num_envs: int = 256
    env: dict[str, Any] = field(default_factory=dict)
    mix: list[str] = field(default_factory=list)
    fallback: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    reward: str | None = "delay"
    wait_scale_s: float | None = 3600.0
    eval_every: int = 250_000
    checkpoint_every: int = 0
    tensorboard: bool = True
    tracker: Any = None
    device: str = "cpu"
    initial: str | None = None
    import_zip: str | None = None
    launcher: Any = None
    workers: int | None = None
    out: str | None = None


def seed_list(given: Any) -> list[int]:
    """Seeds of a list of numbers and of ranges like ``0..9``, both ends included.

    Raises:
        ConfigError: If it is none.
    """
    found: list[Any] = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        match = re.fullmatch(r"(\d+)\.\.(\d+)", one) if isinstance(one, str) else None
        ends = (int(match[1]), int(match[2])) if match else (0, 0)
        need(ends[0] <= ends[1] < ends[0] + 10_000, f"seeds: {one}: must rise, by 10,000 at most")
        found += range(ends[0], ends[1] + 1) if match else [one]
    check_numbers(found, 1)
    return found


def check_train_values(config: dict[str, Any]) -> None:
    """Refuse impossible values.

    Args:
        config: A composed training as plain data.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    for key, least in (("total_timesteps", 0), ("num_envs", 1), ("eval_every", 1), ("checkpoint_every", 0)):
        need(config[key] >= least, f"{key}={config[key]}: must be at least {least}")
        check_whole(key, config[key])
    need(config["seed"] >= 0, f"seed={config['seed']}: must be at least 0")
    if config["seeds"] is not None:
        config["seeds"] = seed_list(config["seeds"])
        need(config["seed"] == 0, f"seed={config['seed']}: has no effect with seeds=")
    if (device := config["device"]) not in DEVICES:
        raise ConfigError(f"device={device}: must be one of {', '.join(DEVICES)}{hint(device, DEVICES)}")
    tracker_names(config["tracker"])
    kind = config["scenario"]["kind"]
    if kind == "cluster":
        for key in ("reward", "wait_scale_s"):
            if config[key] is not None:
                raise ConfigError(
                    f"{key}={config[key]}: has no effect on clusters; their reward is env.reward.TERM=WEIGHT"
                )
        if (actions := config["env"].get("actions", CANDIDATES)) != CANDIDATES:
            raise ConfigError(f"env.actions={actions}: agents are trained on {CANDIDATES}")
        if config["margins"] and not config["fallback"]:
            raise ConfigError(f"margins={config['margins']}: has no effect without fallback=[RULE,…]")
        for margin in config["margins"]:
            need(0.0 <= margin < float("inf"), f"margins: {margin}: must be finite and at least 0")
        return
    for key in ("mix", "fallback", "margins", *(("reward", "wait_scale_s") if kind != "placement" else ())):
        need(not config[key], f"{key}={config[key]}: has no effect on scenarios of kind {kind}")
    if kind != "placement":
        return
    if config["reward"] not in REWARDS:
        raise ConfigError(f"reward={config['reward']}: must be one of {', '.join(REWARDS)}")
    if config["wait_scale_s"] is None or not 0.0 < config["wait_scale_s"] < float("inf"):
        raise ConfigError(f"wait_scale_s={config['wait_scale_s']}: must be positive")
