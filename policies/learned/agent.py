"""A trained agent as a policy: it plays any number of environments at once, without PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.checks import need
from virtgym.envs.cluster.candidates.settings import CandidateSettings
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.observations import OBSERVATIONS

from ..base import placers_in
from ..ties import choose_first_best
from .architecture import CANDIDATES, ENV_OPTIONS, LEGAL, PARTS, SEEN, Layout
from .fallback import Fallback, choose_sure, nearest, plan_slot, traits_of, with_plan
from .kernel_net import BatchNet
from .safety import NEVER, SafePlayer
from .storage import Agent, Member, load_agent

if TYPE_CHECKING:
    from virtgym.envs.scenarios.scenario import Scenario

MASKED = np.float32(-np.inf)

MOST_CANDIDATES = 4096
"""Most candidates that an agent may be offered; settings that ship offer some dozens."""

_OPTIONS: dict[str, type] = {"max_decisions_per_interval": int, "arrival": str, "restart": str}

_CODE = re.compile(r"\.[A-Za-z_]|[:/\\]")
"""What a dotted path or a file has and a name does not: an agent's folder must not name code to import."""


class _Player:
    """One member: its network, and how to pick its columns out of an observation.

    Columns are found by name, so that an agent outlives columns that are added later, and members that read
    different observations make an ensemble.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.net = BatchNet(member.architecture, member.weights)
        self.observation = member.layout.observation()  # an agent of another version is refused at once
        self._picks: dict[Layout, list[list[int] | None]] = {}

    def _find_columns(self, seen: Layout) -> list[list[int] | None]:
        """Where the columns stand that it reads; None = all in order."""
        if seen in self._picks:
            return self._picks[seen]
        mine = self.member.layout
        if missing := seen.lacks(mine):
            hint = ""
            if missing[0] in Layout.current("basic").lacks(Layout.current("slots")):
                hint = f"; make the environment with observation={self.observation}"
            raise ConfigError(f"agent: reads the column {missing[0]}, which was not observed{hint}")
        picks: list[list[int] | None] = [
            None if have == want else [have.index(name) for name in want]
            for have, want in zip(seen.columns, mine.columns)
        ]
        self._picks[seen] = picks
        return picks

    def scores(self, parts: Sequence[F4], seen: Layout) -> F4:
        """Scores (B, actions) of a batch with the columns of ``seen``."""
        rows = parts[0].reshape(len(parts[0]), -1, len(seen.rows))
        fixed = self.member.architecture.n_nodes
        if fixed and rows.shape[1] != fixed:
            raise ConfigError(
                f"agent: an mlp for {fixed // 2} hosts cannot play on {rows.shape[1] // 2}; "
                "train with agent.network=equivariant for any number of hosts"
                if seen.task == "placement"
                else f"agent: an mlp for {fixed} candidates cannot choose from {rows.shape[1]}"
            )
        picks = zip((rows, *parts[1:]), self._find_columns(seen))
        found = [part if pick is None else part[..., pick] for part, pick in picks]
        return self.net.scores(np.concatenate([part.reshape(len(part), -1) for part in found], axis=1))


class LearnedPolicy:
    """Plays an agent.

    Args:
        agent: What was loaded.
        name: What it is called in messages.

    Attributes:
        task: The kind of environment that it plays.
        stateless: That its action for a game depends on this game's observation alone.
        observation: Of placement, the argument ``observation`` of environments that it plays, one of
            ``OBSERVATIONS``: the least that has all columns that its members read. Of other tasks that of
            ``SEEN``.
        env_options: Arguments of ``Cluster-v0`` that it must be played with; else empty. With
            fallbacks those on the cluster that ``begin_on`` was told last, at first of the first kind.
    """

    kind: ClassVar[str] = "agent"
    stateless: ClassVar[bool] = True

    def __init__(self, agent: Agent, name: str = "agent") -> None:
        if agent.task not in LEGAL:
            use = {
                "forecast": "; a forecaster is used by a rule, as in policy=dpm policy.forecaster=FOLDER",
                "proposals": "; a guide is used by a search: policy=annealing policy.guide=FOLDER",
                "destroy": "; it is used by a search: policy=ortools_rescheduling policy.destroy=FOLDER",
            }.get(agent.task, "")
            raise ConfigError(f"{name}: task {agent.task}; this version plays {', '.join(LEGAL)}{use}")
        self.agent = agent
        self.task = agent.task
        self.name = name
        self._players = [_Player(member) for member in agent.members]
        self.observation, self.env_options = SEEN[agent.task][0], {}
        if agent.task == "placement":
            self.observation = max((p.observation for p in self._players), key=OBSERVATIONS.index)
        elif agent.task == "cluster":
            self.env_options = env_options(f"{name}: protocol.", agent.protocol)
            for one in agent.fallbacks:
                if _find_code(one.rule):
                    raise ConfigError(f"{name}: fallbacks.rule={one.rule!r}: an agent may use names only")
        self._fallback: Fallback | None = None
        self._own_candidates = self.env_options.get("candidates")
        if agent.fallbacks:
            self._fall_back_on(agent.fallbacks[0])
        self._layouts: dict[int, Layout] = {}
        self._rng = np.random.default_rng(0)
        self._safe: SafePlayer | None = None
        if agent.safety:
            self._safe = SafePlayer(agent.safety, own_cluster(name, agent.protocol))
        self._last: F4 | None = None
        self._chosen: Any = None

    def _fall_back_on(self, one: Fallback) -> None:
        self._fallback = one
        candidates = with_plan(self._own_candidates, one.rule)
        self.env_options = {**self.env_options, "candidates": candidates}
        self._slot = plan_slot(candidates)

    def begin_on(self, scenario: Scenario) -> None:
        """With fallbacks: take that of this kind of cluster, whose rule also says who places VMs.

        Args:
            scenario: The scenario that is played next.
        """
        if self.agent.fallbacks:
            from ..registry import make_policy  # which knows of agents

            one = nearest(self.agent.fallbacks, traits_of(scenario))
            self._fall_back_on(one)
            self.env_options |= placers_in(make_policy(one.rule), scenario.cluster)

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        """Begin: an agent sees observations, not the view; ``rng`` draws if not deterministic.

        Observations are shares of nodes: with a safety, how large these are is read off the games, or, where
        there are none, off the protocol that the agent was trained on.
        """
        self._rng = rng
        if self._safe and isinstance(view, PlacementGames) and view.config != self._safe.config:
            assert self.agent.safety
            self._safe = SafePlayer(self.agent.safety, view.config)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Choose the action of every environment.

        Args:
            observation: The parts of ``PARTS`` (and ``window``, where there is one) of B environments,
                (B, …) each, or of one, (…); rows may be end to end or, of one cluster, a table.
            state: Handed back.
            episode_start: Not used: the agent has no memory.
            deterministic: Whether to take the best action (the lowest of equals, see ``ties``) or draw by
                probability. An agent of action values (DQN) always takes the best.
            action_masks: Legal actions (B, actions); None = the rows that the observation says are legal.

        Returns:
            Actions (B,) of int64, or one integer for one game; and ``state``.
        """
        parts = [np.asarray(observation[key], dtype=np.float32) for key in PARTS[self.task]]
        if "window" in observation:
            window = np.asarray(observation["window"], dtype=np.float32)
            parts[-1] = np.concatenate((parts[-1], window), axis=-1)
        single = parts[-1].ndim == 1
        if single:
            parts = [part[None] for part in parts]
        parts[0] = parts[0].reshape(len(parts[0]), -1)
        mask = self._mask(parts) if action_masks is None else np.asarray(action_masks, dtype=np.bool_)
        mask = mask.reshape(len(parts[0]), -1)
        scores = self._last = self.scores(parts, mask)
        if not deterministic and self.agent.members[0].scores == "logits":
            scores = scores + self._rng.gumbel(size=scores.shape).astype(np.float32)  # its maximum is a draw
        if self._safe:
            actions = self._safe.choose(self._layout(parts[-1]), parts[0], parts[1], scores, mask)
        elif self._fallback:
            actions = choose_sure(scores, mask, self._slot, self._fallback.margin)
        else:
            actions = choose_first_best(scores, mask)
        self._chosen = actions
        return (int(actions[0]) if single else actions), state

    def explain(self) -> tuple[str, F4]:
        """By what the last actions were chosen.

        Returns:
            ``probability``, of an agent of action values ``value``, and these of every action, (B, actions);
            of illegal ones 0, or minus infinity. ``rule``, where a rule alone plays: 1 of what it chose, and
            minus infinity of the rest.

        Raises:
            ConfigError: If nothing was chosen yet.
        """
        if self._last is None:
            raise ConfigError(f"{self.name}: explain() tells of the last predict(), and there was none")
        if self._fallback and self._fallback.margin >= NEVER:  # scores play no part
            values = np.full_like(self._last, -np.inf)
            values[np.arange(len(values)), self._chosen] = 1.0
            return "rule", values
        if self.agent.members[0].scores != "logits":
            return "value", self._last
        weights = np.exp(self._last - self._last.max(axis=1, keepdims=True))
        return "probability", weights / weights.sum(axis=1, keepdims=True)

    def _layout(self, globals_: F4) -> Layout:
        """The columns of what is observed."""
        width = globals_.shape[1]
        if width not in self._layouts:
            made = Layout.of_width(width) if self.task == "placement" else Layout.current(SEEN[self.task][0])
            self._layouts[width] = made
        return self._layouts[width]

    def _mask(self, parts: Sequence[F4]) -> NDArray[np.bool_]:
        seen = self._layout(parts[-1])
        legal: NDArray[np.bool_] = parts[0][:, seen.rows.index(LEGAL[self.task]) :: len(seen.rows)] > 0.5
        extra = self.agent.members[0].architecture.n_extra
        if extra:
            raise ConfigError(f"{self.name}: has {extra} actions besides the nodes and needs action_masks")
        return legal

    def scores(self, parts: Sequence[F4], mask: NDArray[np.bool_]) -> F4:
        """Logits, or action values, averaged over members; minus infinity where illegal.

        The average of logits is that of log-probabilities but for a number that all actions of a game share.

        Args:
            parts: The parts of ``PARTS``, (B, …) each: rows end to end, then what they share.
            mask: Legal actions, (B, actions).

        Returns:
            (B, actions) of float32.

        Raises:
            ConfigError: If the game has other actions than the agent, or a column was not observed.
        """
        seen = self._layout(parts[-1])
        total: F4 | None = None
        for player in self._players:
            scores = player.scores(parts, seen)
            if scores.shape != mask.shape:
                raise ConfigError(
                    f"{self.name}: knows {scores.shape[1]} actions where the game has {mask.shape[1]}; "
                    "play it with the protocol options that it was trained with"
                )
            total = scores if total is None else total + scores
        assert total is not None
        average: F4 = total / np.float32(len(self._players)) if len(self._players) > 1 else total
        return np.where(mask, average, MASKED)


def own_cluster(name: str, protocol: Mapping[str, Any]) -> PlacementConfig:
    """The cluster and protocol that an agent says it was trained on.

    Raises:
        ConfigError: If it says none that is possible.
    """
    known = {field.name for field in fields(PlacementConfig)}
    try:
        return PlacementConfig(**{key: value for key, value in protocol.items() if key in known})
    except TypeError as error:
        raise ConfigError(f"{name}: protocol: {one_line(error, 200)}") from None


def env_options(where: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent says about its environment, as far as a stranger may say it.

    Args:
        where: What messages put before a key.
        protocol: ``Agent.protocol``.

    Returns:
        The keys of ``ENV_OPTIONS`` that it has.

    Raises:
        ConfigError: If it plays another form of actions, names something to import, or is impossible.
    """
    options = {key: protocol[key] for key in ENV_OPTIONS if protocol.get(key) is not None}
    actions = one_line(options.get("actions"), 100)
    need(options.get("actions") == CANDIDATES, f"{where}actions={actions}: this version plays {CANDIDATES}")
    for key, value in options.items():
        if path := _find_code(value):
            raise ConfigError(f"{where}{key}: {path!r} is a path, and an agent may use names only")
        kind = _OPTIONS.get(key, object)
        typed = isinstance(value, kind) and not isinstance(value, bool)
        need(typed, f"{where}{key}={value}: must be of type {kind.__name__}")
    limit = options.get("max_decisions_per_interval", 1)
    need(limit >= 1, f"{where}max_decisions_per_interval={limit}: must be at least 1")
    try:
        n = CandidateSettings.of(options.get("candidates")).n
    except ConfigError as error:
        raise ConfigError(where + one_line(error, 300).removeprefix("env.")) from None
    need(n <= MOST_CANDIDATES, f"{where}candidates: {n:,} in all; at most {MOST_CANDIDATES:,} are offered")
    return options


def _find_code(value: Any) -> str | None:
    """The first text in nested data that may name a file or something to import."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return next((found for inner in value if (found := _find_code(inner))), None)
    return value[:100] if isinstance(value, str) and _CODE.search(value) else None


def load_policy(folder: str | os.PathLike[str]) -> LearnedPolicy:
    """Make a policy of an agent's folder.

    Args:
        folder: The folder.

    Raises:
        ConfigError: If the folder holds no agent that this version can play.
    """
    return LearnedPolicy(load_agent(folder), os.fspath(folder))
