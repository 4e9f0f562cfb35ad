"""The search space: keys with several values in Hydra's sweep syntax, as Optuna's distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.files import read_bytes

from ..config.yamlio import YamlError, load_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Setting = dict[str, str]
"""A value for every key of a space, as text of the command line."""


@dataclass(frozen=True)
class Axis:
    """A key that is searched over.

    Attributes:
        key: Dotted key.
        text: Its values as typed.
        distribution: What Optuna draws from.
        values: All values where their number is finite: numbers of a range, texts of a choice.
    """

    key: str
    text: str
    distribution: BaseDistribution
    values: tuple[Any, ...] = ()

    def write(self, value: Any) -> str:
        """A value that was drawn as text of the command line."""
        if self.values and not isinstance(value, str):  # a range: what Optuna adds up is a digit off
            value = min(self.values, key=lambda known: abs(known - value))
        return f"{value:.6g}" if isinstance(value, float) else str(value)


def split_swept(texts: Iterable[str]) -> tuple[list[str], dict[str, Axis]]:
    """Tell keys with several values from those with one.

    Args:
        texts: Overrides as typed.

    Returns:
        Those with one value, and the axes of the others.

    Raises:
        ConfigError: If an override cannot be read, or its values are none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    fixed, axes = [], {}
    for text in texts:
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException as error:
            if not text.startswith(("policy.", "agent.")):  # paths: what composes them quotes them
                fixed.append(text)
                continue
            raise ConfigError(f"{text}: cannot be read: {' '.join(str(error).split())}") from None
        if parsed.is_sweep_override():
            key = str(parsed.key_or_group)
            axes[key] = _axis(key, text.partition("=")[2], parsed)
        else:
            fixed.append(text)
    return fixed, axes


def _axis(key: str, text: str, parsed: Any) -> Axis:
    from hydra.core.override_parser.types import Transformer
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep, log = parsed.value(), "log" in parsed.value().tags
    number: Any = FloatDistribution
    try:
        if parsed.is_interval_sweep():
            ends = (sweep.start, sweep.end)
            number = IntDistribution if all(type(end) is int for end in ends) else FloatDistribution
            if not all(map(math.isfinite, ends)):
                raise ValueError("the ends must be finite")
            return Axis(key, text, number(*ends, log=log))
        if parsed.is_range_sweep() and not sweep.shuffle:
            values = tuple(sweep.range())
            number = IntDistribution if all(type(value) is int for value in values) else FloatDistribution
            if not values:
                raise ValueError("no value lies in it")
            if log:
                raise ValueError("a range has no tag log; use interval")
            return Axis(key, text, number(min(values), max(values), step=abs(sweep.step)), values)
        choices = tuple(map(str, parsed.sweep_iterator(transformer=Transformer.encode)))
        if not choices:
            raise ValueError("no value is named")
        return Axis(key, text, CategoricalDistribution(choices), choices)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: {' '.join(str(error).split())}") from None


def read_space(path: str) -> list[str]:
    """Overrides of a file: a mapping from dotted keys to values in Hydra's sweep syntax, or lists of choices.

    Args:
        path: YAML file.

    Raises:
        ConfigError: If it cannot be read, or holds something else.
    """
    try:
        found = load_yaml(read_bytes(Path(path)).decode("utf-8"))
    except (TraceError, OSError) as error:
        raise ConfigError(f"space={path}: cannot be read ({error})") from None
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"space={path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise ConfigError(f"space={path}: must be a mapping like policy.target: interval(0.5,0.9)")
    return [
        f"{key}=choice({','.join(map(str, value))})" if isinstance(value, list) else f"{key}={value}"
        for key, value in found.items()
    ]


def draw(trial: Trial, axes: Mapping[str, Axis]) -> Setting:
    """The values of a trial: those that it has, or new ones of its study's sampler."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    setting = {}
    for key, axis in axes.items():
        d = axis.distribution
        value: Any
        if isinstance(d, CategoricalDistribution):
            value = trial.suggest_categorical(key, d.choices)
        elif isinstance(d, IntDistribution):
            value = trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
        else:
            assert isinstance(d, FloatDistribution)
            value = trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
        setting[key] = axis.write(value)
    return setting


def grid(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Every combination of values, the last key fastest."""
    return [dict(zip(axes, one)) for one in itertools.product(*(axis.values for axis in axes.values()))]
