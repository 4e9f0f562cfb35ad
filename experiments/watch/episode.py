"""One episode, played, and told as a page and a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from virtgym.envs.checks import need
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.policies.base import Policy

from ..config.compose import Run
from ..run.cell import load_scenario, make_cell, run_cell
from ..run.folder import claim_folder, default_out, write_text
from ..run.rollout import make_env
from ..run.rows import rows_frame
from .page import render_episode
from .tape import Tape
from .video import Pictures, check_video

if TYPE_CHECKING:
    import pandas as pd

PAGE = "episode.html"


@dataclass(frozen=True)
class Watched:
    """What there is to see.

    Attributes:
        rows: The result row of the episode, as of ``virtgym evaluate``.
        page: The page.
        video: The video, if one was asked for.
        tape: What the page was made of.
        steps: The per-interval table.
    """

    rows: pd.DataFrame
    page: Path
    video: Path | None
    tape: Tape
    steps: pd.DataFrame


def watch(run: Run, tick: Callable[[int, int], None] | None = None) -> Watched:
    """Play an episode, and write ``episode.html``.

    Args:
        run: One policy, one seed and a scenario of kind ``cluster``.
        tick: Called with the number of intervals that have passed, and of all.

    Raises:
        VirtgymError: For a user's error.
    """
    name, kind = str(run.scenario.get("name")), str(run.scenario.get("kind"))
    need(kind == "cluster", f"scenario={name}: is of kind {kind}; virtgym watch shows kind cluster only")
    need(len(run.seeds) == 1, f"seeds={list(run.seeds)}: virtgym watch shows one episode, like seed=0")
    video = Path(run.config["video"]) if run.config["video"] else None
    if video is not None:
        check_video(video)
    scenario = load_scenario(run.scenario, run.seeds[0])
    assert isinstance(scenario, Scenario)
    cell = make_cell(scenario, run.policies[0], env=run.env)
    tapes: list[Tape] = []
    pictures: list[Pictures] = []

    def make(scenario: Scenario, policy: Policy, **options: Any) -> gym.Env[Any, Any]:
        env = make_env(scenario, policy, render_mode=None if video is None else "rgb_array", **options)
        if video is not None:
            pictures.append(Pictures(env))
        seen = [] if tick is None else [tick]
        tapes.append(Tape(env, policy, *seen, *(one.look for one in pictures)))
        return tapes[0]

    out = Path(run.config["out"] or default_out(name))
    claim_folder(out, "watch")
    result = run_cell(cell, run.seeds[0], make)
    (tape,) = tapes
    write_text(out / PAGE, render_episode(tape, result.rows[0], result.steps))
    for one in pictures:
        assert video is not None
        one.write(video)
    return Watched(rows_frame(result.rows), out / PAGE, video, tape, result.steps)
