"""What Gymnasium's users expect of an environment: masks in infos, modes of rendering, ids, a version."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import virtgym.envs

REPO = Path(__file__).resolve().parent.parent.parent
SMALL: dict[str, Any] = {"scenario": "rescheduling", "snapshots": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "cluster": ("Cluster-v0", {}),
    "candidates": ("Cluster-v0", {"actions": "candidates"}),
    "placement": ("Placement-v0", {"config": {"n_hosts": 2}}),
    "rescheduling": ("Rescheduling-v0", SMALL),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, **more: Any) -> gym.Env[Any, Any]:
    name, options = KINDS[kind]
    return gym.make(f"virtgym/{name}", **options, **more)


@every_kind
def test_infos_have_the_mask_that_spaces_sample_by(kind: str) -> None:
    env = make(kind)
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    kept = []
    for _ in range(20):
        mask = info["action_mask"]
        assert mask.dtype == np.int8
        np.testing.assert_array_equal(mask, env.unwrapped.action_masks())  # type: ignore[attr-defined]
        kept.append((mask, mask.copy()))
        _, _, terminated, truncated, info = env.step(env.action_space.sample(mask))
        assert "illegal_action" not in info
        if terminated or truncated:
            _, info = env.reset()
    for mask, then in kept:  # one that is kept stays what it was
        np.testing.assert_array_equal(mask, then)


@every_kind
def test_infos_of_a_batch_are_those_of_single_environments(kind: str) -> None:
    name, options = KINDS[kind]
    batch = virtgym.envs.make_vec(f"virtgym/{name}", num_envs=2, **options)
    singles = gym.make_vec(f"virtgym/{name}", num_envs=2, vectorization_mode="sync", **options)
    rng = np.random.default_rng(0)
    (_, ours), (_, theirs) = batch.reset(seed=0), singles.reset(seed=0)
    for _ in range(5):
        for key in ("action_mask", "_action_mask"):
            np.testing.assert_array_equal(ours[key], theirs[key])
            assert ours[key].dtype == theirs[key].dtype
        actions = (rng.random(ours["action_mask"].shape) * ours["action_mask"]).argmax(1)
        (*_, ours), (*_, theirs) = batch.step(actions), singles.step(actions)


def test_where_nothing_is_masked_no_info_has_a_mask() -> None:
    env = gym.make("virtgym/Cluster-v0", actions="knobs")
    _, info = env.reset(seed=0)
    assert "action_mask" not in info
    assert "action_mask" not in env.step(env.action_space.sample())[4]
    _, info = gym.make("virtgym/Cluster-v0", observe=False).reset(seed=0)
    assert "action_mask" not in info


@every_kind
def test_every_environment_can_be_rendered_in_every_mode(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("human", "ansi", "rgb_array"):
        env = make(kind, render_mode=mode)
        env.reset(seed=0)
        env.step(int(env.unwrapped.action_masks().argmax()))  # type: ignore[attr-defined]
        shown: Any = env.render()
        told = capsys.readouterr().out
        assert (told != "") == (mode == "human")
        if mode == "rgb_array":
            assert (shown.dtype, shown.ndim) == (np.uint8, 3)
            assert shown.std() > 1
        else:
            assert isinstance(shown, str) == (mode == "ansi")
        env.close()


def test_a_batch_has_no_mode_human_and_says_so() -> None:
    with pytest.warns(UserWarning, match="render_mode='human': there is no such mode, only ansi, rgb_array"):
        envs = virtgym.envs.make_vec("virtgym/Cluster-v0", num_envs=2, render_mode="human")
    assert envs.render_mode is None


def test_a_recorder_without_moviepy_names_the_extra(tmp_path: Path) -> None:
    if importlib.util.find_spec("moviepy") is not None:
        pytest.skip("moviepy is installed")
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"pip install 'virtgym\[video\]'"):
        virtgym.envs.RecordVideo(make("placement", render_mode="rgb_array"), str(tmp_path / "films"))


def test_the_package_says_its_version_and_runs_as_a_module() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert virtgym.envs.__version__ == metadata.version("virtgym")
    assert project["entry-points"]["gymnasium.envs"] == {"virtgym": "virtgym.envs:register_envs"}
    virtgym.envs.register_envs()  # again: nothing is overridden, so nothing is warned of
    run = subprocess.run(
        [sys.executable, "-m", "virtgym", "--version"], capture_output=True, text=True, cwd=REPO / ".typing"
    )
    assert run.stdout == f"virtgym {metadata.version('virtgym')}\n"
