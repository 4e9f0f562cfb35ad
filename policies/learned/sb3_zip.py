"""Policies in zips of Stable-Baselines3. Such a file is a pickle: reading one may run any code in it."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from typing import Any

from stable_baselines3 import DQN

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line, read_bytes
from virtgym.envs.placement.observations import OBSERVATIONS

from .agent import LearnedPolicy
from .architecture import CANDIDATES, Architecture, Layout
from .sb3_algorithms import BatchedA2C, BatchedDQN, BatchedMaskablePPO, BatchedPPO
from .storage import Agent, Member

ALGORITHMS: dict[str, Any] = {
    **{"ppo": BatchedPPO, "maskable_ppo": BatchedMaskablePPO},
    **{"a2c": BatchedA2C, "dqn": BatchedDQN},
}
"""Algorithms whose zips are read."""

LARGEST_ZIP = 1 << 30
"""Most bytes of a zip, packed and unpacked."""


def load_zip_policy(path: str) -> LearnedPolicy:
    """Make a policy of a zip, whatever algorithm saved it. THIS RUNS CODE that the file contains.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or holds another network.
    """
    member = load_zip(path, *ALGORITHMS)
    task = member.layout.task
    protocol = {"actions": CANDIDATES} if task == "cluster" else {}
    return LearnedPolicy(Agent((member,), task, protocol), path)


def load_zip(path: str, *algorithms: str) -> Member:
    """Read a policy out of a zip, with a warning. THIS RUNS CODE that the file contains.

    Read only what you trust. What comes back is plain arrays.

    Args:
        path: The file.
        *algorithms: Names of ``ALGORITHMS``; the first that can read it is taken.

    Raises:
        ConfigError: If it cannot be read, or holds another network.
    """
    warnings.warn(
        f"{path}: a zip of Stable-Baselines3 is a pickle and may run any code; import only what you trust",
        stacklevel=3,
    )
    file = path if os.path.exists(path) else f"{path}.zip"
    errors: list[str] = []
    for name in algorithms:
        try:
            model = _load_model(file, name)
        except Exception as error:  # whatever a pickle brings about
            errors.append(one_line(str(error) or type(error).__name__, 200))
            continue
        try:
            return _member_of(model)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    raise ConfigError(f"{path}: cannot be read as {', '.join(algorithms)} ({errors[0]})")


def _load_model(file: str, algorithm: str) -> Any:
    data = io.BytesIO(read_bytes(file, limit=LARGEST_ZIP, refusal=ConfigError))
    with zipfile.ZipFile(data) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > LARGEST_ZIP:
        raise ValueError(f"it unpacks to {declared:,} bytes, at most {LARGEST_ZIP:,} are read")
    data.seek(0)
    return ALGORITHMS[algorithm].load(data, device="cpu")


def _member_of(model: Any) -> Member:
    """The network of a model.

    Raises:
        ConfigError: If it is of another form.
    """
    values = isinstance(model, DQN)
    policy = model.policy.q_net if values else model.policy
    scores = "values" if values else "logits"
    net = getattr(policy, "net", None)
    if net is not None and hasattr(net, "architecture"):
        weights = {name: value.numpy().copy() for name, value in net.state_dict().items()}
        return Member(net.architecture, policy.layout, weights, scores)
    flat = len(model.observation_space.shape or ()) == 1
    towers = _plain_mlp(policy) if flat else None
    if towers is None:
        raise ConfigError(
            "only networks of virtgym.policies.learned, and SB3's MlpPolicy with equal "
            "towers on flat observations, can be taken over"
        )
    weights, hidden, activation = towers
    n_actions = int(model.action_space.n)
    layout, n_rows = _layout_of(int(model.observation_space.shape[0]), n_actions)
    architecture = Architecture("mlp", *layout.sizes, n_rows, n_actions - n_rows, hidden, activation)
    return Member(architecture, layout, weights, scores)


def _layout_of(width: int, n_actions: int) -> tuple[Layout, int]:
    """The columns and the number of rows of a flat observation; to have both right, actions must match."""
    for observation in (*OBSERVATIONS, CANDIDATES):
        layout = Layout.current(observation)
        n_rows, rest = divmod(width - sum(layout.sizes[1:]), layout.sizes[0])
        most = 2 if layout.task == "placement" else 0  # rejecting and skipping
        if rest == 0 and 0 <= n_actions - n_rows <= most:
            return layout, n_rows
    raise ConfigError(f"reads {width} values for {n_actions} actions, which no environment has")


def _plain_mlp(policy: Any) -> tuple[dict[str, Any], tuple[int, ...], str] | None:
    """Weights, widths and activation of SB3's own dense networks; None if they are of another form."""
    from torch import nn

    if hasattr(policy, "mlp_extractor"):
        towers = {
            "policy": [*policy.mlp_extractor.policy_net, policy.action_net],
            "value": [*policy.mlp_extractor.value_net, policy.value_net],
        }
    elif isinstance(getattr(policy, "q_net", None), nn.Sequential):
        towers = {"policy": list(policy.q_net)}
    else:
        return None
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh}
    used = {type(layer) for layers in towers.values() for layer in layers} - {nn.Linear}
    activation = next((name for name, kind in kinds.items() if used == {kind}), None)
    dense = {k: [layer for layer in layers if isinstance(layer, nn.Linear)] for k, layers in towers.items()}
    hidden = tuple(layer.out_features for layer in dense["policy"][:-1])
    if "value" not in dense:  # DQN has no value of states; this one is never asked
        dense["value"] = [*dense["policy"][:-1], nn.Linear(hidden[-1], 1) if hidden else dense["policy"][-1]]
    if activation is None or hidden != tuple(layer.out_features for layer in dense["value"][:-1]):
        return None
    weights = {
        f"{tower}.{i}.{part}": getattr(layer, part).detach().numpy().copy()
        for tower, layers in dense.items()
        for i, layer in enumerate(layers)
        for part in ("weight", "bias")
    }
    return weights, hidden, activation
