"""An agent's folder: ``agent.json`` says what it is, ``weights.npz`` holds its numbers. None of it is code.

``agent.json`` lists one or several members (an ensemble), each with its architecture, the names of the
columns that it reads and what its scores are; array ``NAME`` of member i is ``i/NAME`` in ``weights.npz``.
Loading parses JSON and plain arrays, never a pickle, and compares what is declared with what the networks
need before it takes memory, so a folder from anywhere can do no harm.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line, read_arrays, read_bytes, write_atomically

from .architecture import MOST_WEIGHTS, NETWORKS, Architecture, Layout, Shape
from .fallback import Fallback
from .safety import Safety, most_cautious

FORMAT, FORMAT_VERSION = "virtgym-agent", 1
META, WEIGHTS = "agent.json", "weights.npz"
LARGEST_META = 1 << 20
"""Most bytes of ``agent.json``; one with a hundred members has a third of it."""

SCORES: tuple[str, ...] = ("logits", "values")
"""What a network's scores are: logits of a stochastic policy, or values of actions (DQN)."""

NORMALISATION = "none beyond the environment's: every column is scaled to its documented range"


@dataclass(frozen=True)
class Member:
    """A network with its weights.

    Attributes:
        architecture: Kind and sizes.
        layout: Names of the columns that it reads.
        weights: Parameters by name, float32.
        scores: One of ``SCORES``.
        safety: When a rule plays in its place; None = never. For placement only.
    """

    architecture: Architecture
    layout: Layout
    weights: Mapping[str, F4]
    scores: str = "logits"
    safety: Safety | None = None

    def __post_init__(self) -> None:
        """Refuse what does not belong together."""
        a = self.architecture
        if self.scores not in SCORES:
            raise ConfigError(f"scores={self.scores}: must be one of {', '.join(SCORES)}")
        if a.network not in NETWORKS[self.layout.task]:
            raise ConfigError(
                f"columns: {', '.join(self.layout.parts)} are not what network={a.network} reads"
            )
        if (a.n_node, a.n_request, a.n_globals) != self.layout.sizes:
            raise ConfigError("columns: not as many as the architecture reads")
        if self.safety is not None and (self.layout.task != "placement" or a.n_extra):
            raise ConfigError("safety: is for agents of placement that choose nodes only")
        object.__setattr__(self, "weights", _check_weights(a, self.weights))


@dataclass(frozen=True)
class Agent:
    """What an agent's folder holds.

    Attributes:
        members: Its networks; several are an ensemble, whose log-probabilities (or values) are averaged.
        task: Kind of environment that it plays.
        protocol: The configuration that it was trained on: fields of ``PlacementConfig``; for clusters the
            arguments of ``Cluster-v0`` that decide what is observed and what actions mean.
        training: How it was trained: learner, scenario, seed, steps, validation.
        versions: Versions of the packages that trained it.
        fallbacks: Of clusters, the rule that plays unless the agent is sure, by kind of cluster; () = none.
    """

    members: tuple[Member, ...]
    task: str = "placement"
    protocol: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    fallbacks: tuple[Fallback, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ensembles that cannot be averaged."""
        if not self.members:
            raise ConfigError("members: an agent needs at least one")
        for key in ("scores", "n_extra"):
            found = {getattr(m, key, None) or getattr(m.architecture, key, None) for m in self.members}
            if len(found) > 1:
                raise ConfigError(f"members: {key} must be the same in all of an ensemble")
        for task in (m.layout.task for m in self.members):
            if task != self.task:
                raise ConfigError(f"task {self.task}: the columns are those of an agent for {task}")
        most_cautious([m.safety for m in self.members])
        if self.fallbacks and self.task != "cluster":
            raise ConfigError("fallbacks: are for agents of clusters; of placement it is safety")

    @property
    def safety(self) -> Safety | None:
        """That of its most cautious member."""
        return most_cautious([m.safety for m in self.members])


def _check_weights(architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> dict[str, F4]:
    """Check that weights are those of an architecture.

    Args:
        architecture: Kind and sizes.
        weights: Arrays by name.

    Returns:
        The weights as contiguous float32.

    Raises:
        ConfigError: If one is missing, too much, of another shape or not finite.
    """
    shapes = architecture.shapes()
    if odd := sorted(set(weights) ^ set(shapes)):
        what = "missing" if odd[0] in shapes else "not of this architecture"
        raise ConfigError(f"weights: {odd[0]} is {what}")
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(weights[name])
        if array.shape != shape or array.dtype.kind != "f":
            raise ConfigError(
                f"weights: {name} is {array.dtype}{list(array.shape)}, must be float32{list(shape)}"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"weights: {name} holds values that are not finite")
        found[name] = np.ascontiguousarray(array, dtype=np.float32)
    return found


def save_agent(folder: str | os.PathLike[str], agent: Agent) -> Path:
    """Write an agent's folder.

    Weights come first and are named in ``agent.json`` by their checksum, so that a half-written folder is
    found out and not played.

    Args:
        folder: The folder; made if need be, replaced if it holds an agent.
        agent: The agent.

    Returns:
        The folder.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{i}/{k}": w for i, m in enumerate(agent.members) for k, w in m.weights.items()
    }
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    write_atomically(path / WEIGHTS, lambda draft: draft.write_bytes(data))
    members = [
        {"architecture": m.architecture.to_dict(), "columns": m.layout.to_dict(), "scores": m.scores}
        | ({} if m.safety is None else {"safety": m.safety.to_dict()})
        for m in agent.members
    ]
    meta = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task": agent.task,
        "members": members,
        "normalisation": NORMALISATION,
        "protocol": dict(agent.protocol),
        **({"fallbacks": [one.to_dict() for one in agent.fallbacks]} if agent.fallbacks else {}),
        "training": dict(agent.training),
        "versions": dict(agent.versions),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(meta, indent=1) + "\n"
    write_atomically(path / META, lambda draft: draft.write_text(text, encoding="utf-8"))
    return path


def load_agent(folder: str | os.PathLike[str]) -> Agent:
    """Read an agent's folder; no code in it is run.

    Args:
        folder: The folder.

    Returns:
        The agent.

    Raises:
        ConfigError: If a file is missing, damaged or of something else; one line that names it.
    """
    path = Path(folder)
    try:
        return _load(path)
    except ConfigError as error:
        text = one_line(error, 400)
        raise ConfigError(text if text.startswith(str(path)) else f"{path / META}: {text}") from None
    except Exception as error:  # the edge: whatever a stranger's folder brings about, here or in libraries
        raise ConfigError(f"{path}: cannot be read as an agent ({type(error).__name__})") from error


def _load(path: Path) -> Agent:
    meta = _read_meta(path / META)
    listed = meta.get("members")
    if not isinstance(listed, list) or not all(isinstance(m, dict) for m in listed):
        raise ConfigError("members: must be a list of mappings")
    parts = {key: meta.get(key, {}) for key in ("protocol", "training", "versions")}
    for key, value in parts.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a mapping")
    networks = [Architecture.from_dict(m.get("architecture")) for m in listed]
    layouts = [Layout.from_dict(m.get("columns")) for m in listed]
    shapes = {f"{i}/{name}": shape for i, a in enumerate(networks) for name, shape in a.shapes().items()}
    arrays = _read_arrays(path / WEIGHTS, meta.get("weights_sha256"), shapes)
    members = []
    for i, m in enumerate(listed):
        mine = {name: arrays.pop(f"{i}/{name}") for name in networks[i].shapes() if f"{i}/{name}" in arrays}
        safety = Safety.from_dict(m.get("safety"))
        members.append(Member(networks[i], layouts[i], mine, str(m.get("scores")), safety))
    told = meta.get("fallbacks", [])
    if not isinstance(told, list):
        raise ConfigError("fallbacks: must be a list of mappings with traits, rule and margin")
    fallbacks = tuple(Fallback.from_dict(one) for one in told)
    agent = Agent(tuple(members), one_line(meta.get("task"), 100), **parts, fallbacks=fallbacks)
    if arrays:
        raise ConfigError(f"{path / WEIGHTS}: array {min(arrays)}: of no member")
    return agent


def _read_meta(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise ConfigError(
            f"{path}: no such file; an agent's folder, as virtgym train writes it, holds {META} and {WEIGHTS}"
        )
    try:
        meta = json.loads(read_bytes(path, limit=LARGEST_META, refusal=ConfigError))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ConfigError(f"{path}: not an agent of virtgym (format must be {FORMAT})")
    if meta.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version {meta.get('format_version')}; this virtgym reads {FORMAT_VERSION}"
        )
    return meta


def _read_arrays(path: Path, checksum: Any, shapes: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
    """Read the arrays of the members; no more than what these shapes need is read or unpacked."""
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if numbers > MOST_WEIGHTS:
        raise ConfigError(f"members: networks of {numbers:,} numbers; at most {MOST_WEIGHTS:,} are read")
    limit = 8 * numbers + 1024 * (len(shapes) + 64)
    if not os.path.lexists(path):
        raise ConfigError(f"{path}: no such file, but {META} is there")
    data = read_bytes(path, limit=limit, refusal=ConfigError)
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ConfigError(f"{path}: damaged, or not the file that {META} describes (checksum differs)")
    return read_arrays(io.BytesIO(data), limit=limit, refusal=ConfigError, where=str(path))


def merge_agents(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Agent:
    """Make an ensemble of several agents.

    Args:
        folders: Their folders.
        out: Where to save it; None = nowhere.

    Returns:
        One agent with all their members.

    Raises:
        ConfigError: If a folder cannot be read, or the agents do not go together.
    """
    agents = [load_agent(folder) for folder in folders]
    if not agents:
        raise ConfigError("folders: an ensemble needs at least one agent")
    if len({agent.task for agent in agents}) > 1:
        raise ConfigError("folders: agents of different tasks make no ensemble")
    if agents[0].task == "cluster" and any(agent.protocol != agents[0].protocol for agent in agents):
        raise ConfigError("folders: agents of clusters with different settings of env make no ensemble")
    if len({agent.fallbacks for agent in agents}) > 1:
        raise ConfigError("folders: agents with different fallbacks make no ensemble")
    merged = Agent(
        tuple(member for agent in agents for member in agent.members),
        agents[0].task,
        agents[0].protocol,
        {"ensemble_of": [dict(agent.training) for agent in agents]},
        agents[0].versions,
        agents[0].fallbacks,
    )
    if out is not None:
        save_agent(out, merged)
    return merged
