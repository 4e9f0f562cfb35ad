"""The group ``env`` of a command: arguments of the environment that a person may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError


def env_options(env: Mapping[str, Any] | None, command: str, kind: str) -> dict[str, Any]:
    """Check the arguments of the environment; most values are the environment's to check.

    Args:
        env: The group ``env`` as composed.
        command: The command, for messages.
        kind: Kind of the scenario.

    Returns:
        Those that say something.

    Raises:
        ConfigError: Naming the key and its neighbours.
    """
    given = {k: v for k, v in (env or {}).items() if k not in ("_target_", "_convert_", "id")}
    if not given:  # what the checks need takes as long to load as composing a command
        return given
    from virtgym.envs.cluster.metrics import own_metrics
    from virtgym.envs.cluster.rewards import check_weights
    from virtgym.policies.learned.architecture import ENV_OPTIONS

    known = (*ENV_OPTIONS, "reward", "knobs_policy", "resample_trace", "metrics")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"env.{key}: {command} has no such key{hint(key, known)}; allowed are: {', '.join(known)}"
            )
    # A choice of the group names every key; what it leaves open is no more than not to name it.
    given = {k: v for k, v in given.items() if v is not None and v is not False and v != {}}
    for key in given:
        if kind != "cluster":
            raise ConfigError(f"env.{key}: has no effect on scenarios of kind {kind}")
    for key in ("candidates", "reward"):
        if not isinstance(given.get(key) or {}, Mapping):
            raise ConfigError(f"env.{key}={given[key]}: must be a mapping, like {{KEY: VALUE}}")
    if not isinstance(given.get("metrics", []), list | tuple):
        raise ConfigError(f"env.metrics={given['metrics']}: must be a list, like [my_pkg:METRIC]")
    own_metrics(given.get("metrics", ()))
    check_weights(given.get("reward"))
    return given
