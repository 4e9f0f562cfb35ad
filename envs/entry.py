"""What every environment accepts, alone or in a batch: actions, seeds, options of ``reset``, render modes.

One check each, so that a wrong value is refused everywhere, and with the same words.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from .arrays import I8
from .checks import need_seed, whole_number
from .errors import ConfigError

INT64 = np.iinfo(np.int64)

BATCH_RENDER_MODES = ["ansi", "rgb_array"]
"""How every environment can be shown, alone or in a batch."""
RENDER_MODES = ["human", *BATCH_RENDER_MODES]
"""How a single one can be shown: ``human`` prints what ``ansi`` gives whenever something has happened."""


def need_begun(begun: bool) -> None:
    """Refuse a step without an episode.

    Raises:
        ResetNeeded: If there is none.
    """
    if not begun:
        raise gym.error.ResetNeeded("the episode is over (or has not begun): call reset() before step()")


def need_action(action: Any) -> int:
    """The number of a discrete action; one that no space of actions holds becomes -1, an illegal action.

    Raises:
        ConfigError: If it is not a whole number.
    """
    number = whole_number(action)
    if number is None:
        shown = action.item() if isinstance(action, np.generic) else action
        raise ConfigError(f"action {shown!r}: must be a whole number, of an integer type")
    return number if INT64.min <= number <= INT64.max else -1


def need_actions(actions: Any, n: int) -> I8:
    """The numbers of n discrete actions, (n,); ``need_action`` for each.

    Raises:
        ConfigError: If these are not n whole numbers.
    """
    given = actions if isinstance(actions, list | tuple) else np.asarray(actions)
    shape = (len(given),) if isinstance(given, list | tuple) else given.shape
    if shape != (n,):
        raise ConfigError(f"actions of shape {shape}: must be one per environment, ({n},)")
    if isinstance(given, np.ndarray) and given.dtype.kind == "i":
        return np.ascontiguousarray(given, dtype=np.int64)
    # One by one: of a list NumPy would make numbers of one type, whatever its elements are.
    return np.array([need_action(action) for action in given], dtype=np.int64)


def make_generator(seed: int) -> np.random.Generator:
    """The generator that a single environment draws from after ``reset(seed=seed)``."""
    return seeding.np_random(need_seed("seed", seed))[0]


def need_seeds(seed: Any, n: int) -> list[int | None]:
    """One seed per environment of a batch: of a number, environment i gets ``seed`` + i.

    Raises:
        ConfigError: If it is neither None, nor a seed, nor a list of n seeds or Nones.
    """
    if seed is None:
        return [None] * n
    if whole_number(seed) is None and isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
        if len(seed) != n:
            raise ConfigError(f"seed: must be one number, or {n}")
        return [None if one is None else need_seed("seed", one) for one in seed]
    first = need_seed("seed", seed)
    return [first + i for i in range(n)]


def need_options(options: Any, known: Collection[str] = ()) -> Mapping[str, Any]:
    """The options of ``reset``, none of which is unknown.

    Raises:
        ConfigError: If one is, or they are no mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"reset(options={options!r}): must be a mapping, or None")
    for key in options:
        if key not in known:
            allowed = f"only {', '.join(known)}" if known else "this environment has none"
            raise ConfigError(f"reset(options): {key}: there is no such option, {allowed}")
    return options


def as_action_mask(mask: NDArray[np.bool_]) -> NDArray[np.int8]:
    """A mask as ``info["action_mask"]`` has it, and ``action_space.sample`` takes it: the same memory."""
    return mask.view(np.int8)


def show_human(text: str) -> None:
    """Print a text in place of the last one; below it where the output is no terminal."""
    home = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
    print(home + text, flush=True)


def usable_render_mode(mode: Any, modes: Sequence[str]) -> str | None:
    """The render mode that was asked for, or None with a warning where there is no such mode.

    Libraries ask for pictures without knowing whether there are any; Gymnasium itself warns and goes on.
    """
    if mode is None or mode in modes:
        return None if mode is None else str(mode)
    gym.logger.warn(f"render_mode={mode!r}: there is no such mode, only {', '.join(modes)}; going on without")
    return None
