"""Every entry point accepts and refuses the same, with the same words: alone, in a batch, Gymnasium, SB3."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import virtgym.envs
from virtgym.envs.cluster.knobs import KnobCodec
from virtgym.envs.errors import ConfigError

CLUSTER, PLACEMENT = "virtgym/Cluster-v0", "virtgym/Placement-v0"


class One:
    """A single environment, registered, with Gymnasium's wrappers."""

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        self.env = gym.make(env_id, **kwargs)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(seed=seed, options=options)[0]

    def step(self, action: Any) -> Any:
        return self.env.step(action)

    def stream(self) -> np.random.Generator:
        return self.env.unwrapped.np_random


class Batch(One):
    """Two environments in one native batch."""

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        self.env: Any = virtgym.envs.make_vec(env_id, num_envs=2, **kwargs)

    def step(self, action: Any) -> Any:
        return self.env.step([action, 0])

    def stream(self) -> np.random.Generator:
        batch = self.env.unwrapped.batch
        generator: np.random.Generator = batch.rngs[0] if hasattr(batch, "rngs") else batch.task.np_random
        return generator


class Sb3(One):
    """Two environments as a VecEnv of Stable-Baselines3."""

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        from virtgym.envs.sb3 import ClusterVecEnv, PlacementVecEnv

        self.env: Any = (ClusterVecEnv if env_id == CLUSTER else PlacementVecEnv)(2, **kwargs)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.env.seed(seed)
        if options is not None:
            self.env.set_options(options)
        return self.env.reset()

    def step(self, action: Any) -> Any:
        return self.env.step([action, 0])

    def stream(self) -> np.random.Generator:
        batch = self.env.batch
        generator: np.random.Generator = batch.rngs[0] if hasattr(batch, "rngs") else batch.task.np_random
        return generator


ENTRIES: dict[str, Callable[..., One]] = {
    "cluster": lambda **kwargs: One(CLUSTER, **kwargs),
    "placement": lambda **kwargs: One(PLACEMENT, **kwargs),
    "batch": lambda **kwargs: Batch(PLACEMENT, **kwargs),
    "sb3": lambda **kwargs: Sb3(PLACEMENT, **kwargs),
    "cluster batch": lambda **kwargs: Batch(CLUSTER, **kwargs),
    "cluster sb3": lambda **kwargs: Sb3(CLUSTER, **kwargs),
}


@pytest.fixture(params=list(ENTRIES))
def entry(request: pytest.FixtureRequest) -> Callable[..., One]:
    if "sb3" in request.param:
        pytest.importorskip("stable_baselines3")
    return ENTRIES[request.param]


def words(error: pytest.ExceptionInfo[BaseException]) -> str:
    return str(error.value)


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        (1.0, "1.0"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (np.float32(2.0), "2.0"),
        (None, "None"),
        ("1", "'1'"),
        (True, "True"),
        (np.bool_(1), "True"),
    ],
)
def test_an_action_that_is_no_whole_number_is_refused(entry: Any, action: Any, shown: str) -> None:
    env = entry()
    env.reset(seed=0)
    with pytest.raises(ConfigError) as error:
        env.step(action)
    assert words(error) == f"action {shown}: must be a whole number, of an integer type"


@pytest.mark.parametrize("name", ["batch", "sb3"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64", "U4", "M8[s]", "object"])
def test_an_array_of_another_type_is_refused(name: str, dtype: str) -> None:
    if name == "sb3":
        pytest.importorskip("stable_baselines3")
    env = ENTRIES[name]()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action .*: must be a whole number, of an integer type"):
        env.env.step(np.zeros(2, dtype=dtype) if dtype != "object" else np.array([None, 0]))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"])
def test_every_type_of_integer_is_an_action(entry: Any, dtype: str) -> None:
    env = entry()
    env.reset(seed=0)
    env.step(np.dtype(dtype).type(0))


@pytest.mark.parametrize("action", [-1, 10**6, 2**40, 2**63, 2**70, -(2**70)])
def test_a_number_beyond_the_space_is_an_illegal_action(entry: Any, action: int) -> None:
    env = entry()
    env.reset(seed=0)
    told = str(env.step(action))
    assert "no such" in told


@pytest.mark.parametrize("actions", [[[0], [0]], np.zeros((2, 1), int), [0], [0, 0, 0], 0, [[0], [0, 1]], []])
def test_actions_of_another_shape_are_refused(entry: Any, actions: Any) -> None:
    env = entry()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action"):
        env.env.step(actions if not np.isscalar(actions) or isinstance(env, Batch | Sb3) else [actions])


def test_a_step_before_the_first_reset_is_refused(entry: Any) -> None:
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        entry().step(0)


@pytest.mark.parametrize("seed", [-1, 1.0, 1.5, "1", float("nan"), np.int64(-3), np.float64(2.0), True])
def test_what_is_no_seed_is_refused(entry: Any, seed: Any) -> None:
    with pytest.raises(ConfigError) as error:
        entry().reset(seed=seed)
    assert words(error) == f"seed={seed!r}: must be a whole number, at least 0"


@pytest.mark.parametrize("seed", [0, 12345678901234567890, np.int32(7), np.uint64(2**63 + 1), 2**200])
def test_every_whole_number_is_a_seed(entry: Any, seed: Any) -> None:
    env = entry()
    env.reset(seed=seed)
    first = env.stream().bit_generator.state
    env.reset(seed=int(seed))
    assert env.stream().bit_generator.state == first


@pytest.mark.parametrize("key", ["windows", "seed", "Window", 3])
def test_an_unknown_option_is_refused(entry: Any, key: Any) -> None:
    with pytest.raises(ConfigError, match=rf"reset\(options\): {key}: there is no such option, "):
        entry().reset(seed=0, options={key: 5})


@pytest.mark.parametrize("name", ["placement", "batch", "sb3"])
@pytest.mark.parametrize("row", ["a", None, 1.5, float("nan"), -1, 10**6, 2**80, True, {}])
def test_a_wrong_window_is_refused(name: str, row: Any) -> None:
    if name == "sb3":
        pytest.importorskip("stable_baselines3")
    with pytest.raises(ConfigError) as error:
        ENTRIES[name]().reset(seed=0, options={"window": row})
    assert words(error) == f"reset(options): window {row}: no such window, must lie in 0..8191"


def test_options_that_are_no_mapping_are_refused(entry: Any) -> None:
    env = entry()
    if isinstance(env, Sb3):
        pytest.skip("SB3 takes a list: options of each environment")
    with pytest.raises(ConfigError, match=r"reset\(options=\[1\]\): must be a mapping"):
        env.reset(options=[1])


@pytest.mark.parametrize("name", ["batch", "placement"])
def test_a_refused_reset_changes_nothing(name: str) -> None:
    env = ENTRIES[name]()
    env.reset(seed=0)
    before = env.stream().bit_generator.state
    with pytest.raises(ConfigError):
        env.reset(seed=1, options={"window": "a"})
    assert env.stream().bit_generator.state == before


@pytest.mark.parametrize("mode", ["rgb_array", "ansi", None])
def test_every_environment_can_be_shown(entry: Any, mode: str | None) -> None:
    env = entry(render_mode=mode)
    env.reset(seed=0)
    env.step(0)
    assert env.env.render_mode == mode
    if mode is None or (mode == "ansi" and isinstance(env, Sb3)):
        return  # SB3 shows pictures only
    shown = env.env.render()
    for one in shown if isinstance(env, Batch) else [shown]:
        if mode == "ansi":
            assert "host" in one or "hosts on" in one
        else:
            assert one.dtype == np.uint8
            assert one.ndim == 3
            assert one.std() > 1.0


def test_an_unknown_render_mode_is_a_warning(entry: Any) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        env = entry(render_mode="hologram")
    assert any("hologram" in str(one.message) for one in seen)
    env.reset(seed=0)
    env.step(0)
    assert env.env.unwrapped.render_mode is None


@pytest.mark.parametrize("env_id", [CLUSTER, PLACEMENT])
@pytest.mark.parametrize("kind", ["DummyVecEnv", "SubprocVecEnv"])
def test_make_vec_env_of_sb3_asks_for_pictures_and_gets_them(env_id: str, kind: str) -> None:
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    from stable_baselines3.common.env_util import make_vec_env

    cls = getattr(vec_env, kind)
    options = {"start_method": "fork"} if kind == "SubprocVecEnv" else {}
    envs = make_vec_env(env_id, n_envs=2, seed=0, vec_env_cls=cls, vec_env_kwargs=options)
    try:
        envs.reset()
        picture = envs.render()
        assert picture is not None
        assert picture.ndim == 3
    finally:
        envs.close()


@pytest.mark.parametrize("env_id", [CLUSTER, PLACEMENT])
def test_pictures_are_collected_by_gymnasium(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(0)
    frames: Any = env.render()
    assert len(frames) == 2
    assert frames[0].shape == frames[1].shape


@pytest.mark.parametrize(
    "action", [None, "ab", [1.0], [[0.0, 0.0]], [0.0, np.nan], [0.0, np.inf], object(), 0.5]
)
def test_knobs_are_so_many_finite_numbers(action: Any) -> None:
    codec = KnobCodec({"a": (0.0, 1.0, 0.5), "b": (0.0, 1.0, 0.5)})
    with pytest.raises(ConfigError, match="must be 2 finite numbers"):
        codec.decode(action)
