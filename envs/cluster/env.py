"""``virtgym/Cluster-v0``: operate a cluster interval by interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..checks import need, need_choice, need_seed
from ..entry import (
    RENDER_MODES,
    as_action_mask,
    need_action,
    need_begun,
    need_options,
    show_human,
    usable_render_mode,
)
from ..errors import ConfigError
from ..scenarios.scenario import Scenario, build_scenario, load_scenario_config
from ..sim.decisions import Decisions
from ..sim.metrics import StepMetrics, interval_metrics
from ..sim.simulator import ClusterView, Simulator
from .actions import ACTION_REASONS, NOT_OFFERED, ActionCodec, take
from .candidates.plugins import make_plugins
from .candidates.settings import CandidateSettings
from .knobs import KnobDriver, KnobPolicy
from .metrics import own_metrics
from .observations import Observer
from .rewards import RewardFunction, check_weights

if TYPE_CHECKING:
    from .candidates.form import CandidateForm
    from .render import History

ACTION_FORMS: tuple[str, ...] = ("unrolled", "knobs", "candidates")
"""What an action is: one choice of many per interval, the thresholds of a planning policy, or a candidate."""

SEED_RANGE = 2**31 - 1

Observation = dict[str, NDArray[Any]]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


class ClusterEnv(gym.Env[Observation, Any]):
    """A cluster of hosts under a load of VMs: migrate, place, switch hosts on and off.

    With ``actions="unrolled"`` an action is one choice (see ``actions``): choose a VM, then its host, or
    toggle the power of a host; ``0`` lets the chosen VM go, and without one it stops: only then time passes,
    one interval of the scenario. ``action_masks()`` says exactly what is legal. An illegal action changes
    nothing, is counted and named in ``info``. With ``actions="candidates"`` an action is one of the
    macro-actions that are offered (see ``candidates``), ``0`` stops. With ``actions="knobs"`` an action sets
    the thresholds of a planning policy, which then plans the interval. In all, ``step`` also takes a
    ``Decisions`` object: all orders of the interval at once, then time passes.

    The reward of an interval is a weighted sum of terms (see ``rewards``); choices before *stop* earn 0.
    The end of the horizon is a time limit, so it truncates; nothing terminates an episode.

    Args:
        scenario: Name, mapping or built scenario.
        scenario_overrides: Nested mapping or dotted keys laid over the scenario's configuration.
        scenario_seed: Seed of the generated trace and of random VM types of the first scenario.
        resample_trace: Draw a new generated trace (and random VM types) at every reset, from the
            environment's generator. Otherwise every episode has the same load, whatever the seed.
        actions: ``unrolled``, ``knobs`` or ``candidates``.
        reward: Weight by term, laid over the defaults of ``rewards.TERMS``.
        render_mode: ``ansi``, ``rgb_array`` or None; with another there is a warning and no picture.
        max_decisions_per_interval: After so many unrolled actions in one interval it ends as by *stop* (a VM
            chosen without a host is let go); it guards against agents that never stop. None = 2 (V + H).
            Of candidates an interval takes so many, then time passes. None = max(1, H // 10).
        arrival: Rule that places arriving VMs in place of the scenario's; ``policy``: the agent does.
        restart: The same for VMs that restart after a failure.
        tables: Whether ``hosts`` and ``vms`` are tables, (H, columns) and (V, columns), for networks with a
            row per host and VM, or their rows end to end, which SB3's checker and networks expect.
        observe: Whether to write observations; without, they are all 0, which saves half of the environment's
            time where a rule reads ``view`` instead. Masks are right in both cases.
        knobs_policy: Dotted path of the class behind ``knobs`` (or something to call), with ``KNOBS``,
            ``set_knobs``, ``reset`` and ``plan``.
        candidates: Settings of ``candidates`` (``CandidateSettings`` or a mapping); None = the defaults.
        metrics: Metrics of one's own by dotted path, beside those that plug-ins register.
        oracle: Whether ``view.oracle()`` hands out the future; else the view has no way to it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 12}  # type: ignore[misc]

    def __init__(
        self,
        scenario: str | Mapping[str, Any] | Scenario = "small",
        *,
        scenario_overrides: Mapping[str, Any] | None = None,
        scenario_seed: int = 0,
        resample_trace: bool = False,
        actions: str = "unrolled",
        reward: Mapping[str, float] | None = None,
        render_mode: str | None = None,
        max_decisions_per_interval: int | None = None,
        arrival: str | None = None,
        restart: str | None = None,
        tables: bool = False,
        observe: bool = True,
        knobs_policy: str | Callable[[], KnobPolicy] = "virtgym.policies.literature.ConsolidationPolicy",
        candidates: CandidateSettings | Mapping[str, Any] | None = None,
        metrics: Sequence[str] = (),
        oracle: bool = False,
    ) -> None:
        need_choice("env", "actions", actions, ACTION_FORMS)
        self.actions = actions
        self.render_mode = usable_render_mode(render_mode, RENDER_MODES)
        self.resample_trace = resample_trace
        self._observe = observe
        self._oracle = oracle
        need_seed("env.scenario_seed", scenario_seed)
        self._tables = tables
        self._weights = check_weights(reward)
        self.own_metrics = tuple(own_metrics(metrics))
        self.knobs = KnobDriver(knobs_policy) if actions == "knobs" else None
        built = _build(scenario, scenario_seed, scenario_overrides)
        self._placers: dict[str, Any] = {"arrival": arrival, "restart": restart}
        if self.knobs is not None:
            self._placers = {
                what: rule or self.knobs.rule_in(what, built.cluster) for what, rule in self._placers.items()
            }
        if resample_trace and built.config.trace.path is not None:
            raise ConfigError(
                f"env.resample_trace: {built.name} reads {built.config.trace.path}, "
                "only generated traces are drawn anew"
            )
        self._shape = (built.cluster.n_hosts, built.workload.n_vms)
        self.codec = ActionCodec(*self._shape)
        self.candidates = CandidateSettings.of(candidates)
        self._plugins = make_plugins(self.candidates) if actions == "candidates" else []
        limit = max_decisions_per_interval
        if limit is None:
            limit = max(1, self._shape[0] // 10) if actions == "candidates" else 2 * sum(self._shape)
        need(limit >= 1, f"env.max_decisions_per_interval={limit}: must be at least 1")
        self.max_decisions_per_interval = limit
        self._use(built)
        self.observation_space: Any = (
            Observer.space(*self._shape, tables, self._observer.full)
            if isinstance(self._observer, Observer)
            else self._observer.space(self.candidates, tables)
        )
        n_actions = self.candidates.n if actions == "candidates" else self.codec.n
        self.action_space: spaces.Space[Any] = spaces.Discrete(n_actions)
        if self.knobs is not None:
            self.action_space = spaces.Box(-1.0, 1.0, (len(self.knobs.codec.knobs),), np.float32)
        self._over = True

    def _use(self, scenario: Scenario) -> None:
        """Run this scenario from now on."""
        if (scenario.cluster.n_hosts, scenario.workload.n_vms) != self._shape:
            raise ConfigError(
                f"scenario {scenario.name}: every episode needs the same number of hosts and VMs"
            )
        self.scenario = scenario
        self._sim = scenario.simulator(oracle=self._oracle, **self._placers)
        self._observer = self._make_observer()
        self._reward = RewardFunction(self._weights, self._sim.params)

    def draw_trace(self, seed: int) -> None:
        """Run, from the next reset on, the same scenario with another generated trace."""
        self._use(self.scenario.drawn_anew(seed))

    def _make_observer(self) -> Observer | CandidateForm:
        if self.actions != "candidates":
            return Observer(self._sim, self.max_decisions_per_interval, self._tables)
        from .candidates.form import CandidateForm  # its kernels are of use with candidates only

        return CandidateForm(
            self._sim, self.candidates, self._plugins, self.max_decisions_per_interval, self._tables
        )

    @property
    def view(self) -> ClusterView:
        """What rules and solvers read; a reset that draws a new trace replaces it."""
        return self._sim.view

    @property
    def sim(self) -> Simulator:
        """The simulator behind it, for analysis; changing it is no action of the environment."""
        return self._sim

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weight of every reward term."""
        return dict(self._weights)

    @property
    def form(self) -> CandidateForm:
        """What offers candidates.

        Raises:
            ConfigError: With another form of actions.
        """
        if isinstance(self._observer, Observer):
            raise ConfigError(f"env.actions={self.actions}: only candidates are offered by a form")
        return self._observer

    @property
    def chosen_vm(self) -> int:
        """The VM whose host comes next, -1 = none."""
        return self._chosen

    @property
    def observer(self) -> Observer | CandidateForm:
        """What writes observations and masks; a reset that draws a new trace replaces it."""
        return self._observer

    @property
    def observes(self) -> bool:
        """Whether observations are written."""
        return self._observe

    @property
    def reward(self) -> RewardFunction:
        """What works out rewards; a reset that draws a new trace replaces it."""
        return self._reward

    @property
    def place(self) -> tuple[int, int, int]:
        """Where the agent stands: the chosen VM, choices in this interval, and what was illegal so far."""
        return self._chosen, self._decisions, self._illegal

    def take_up(self, chosen: int, decisions: int, illegal: int, over: bool) -> None:
        """Note where the agent stands, after a batch has played in this environment's memory."""
        self._chosen, self._decisions, self._illegal, self._over = chosen, decisions, illegal, over

    def sum_up(self) -> dict[str, Any]:
        """``reward_terms`` and ``step_metrics`` of ``info``, of an interval that a batch has played."""
        self._last_step: dict[str, float] = interval_metrics(
            self._sim.params, StepMetrics(self._reward.buffers.delta.copy())
        )
        return {"reward_terms": self._reward.shipped_terms(), "step_metrics": self._last_step}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Go back to time 0.

        Args:
            seed: Seed of the environment's generator, from which everything random is drawn.
            options: None are known.

        Returns:
            Observation and info.
        """
        need_options(options)
        super().reset(seed=None if seed is None else need_seed("seed", seed))
        if self.resample_trace:
            self.draw_trace(int(self.np_random.integers(SEED_RANGE)))
        self._sim.reset(np.random.default_rng(self.np_random.integers(SEED_RANGE)))
        if self.knobs is not None:
            rng = np.random.default_rng(self.np_random.integers(SEED_RANGE))
            self.knobs.policy.reset(self._sim.view, rng)
        if not isinstance(self._observer, Observer):
            self._observer.begin(np.random.default_rng(self.np_random.integers(SEED_RANGE)))
        self._observer.reset()
        self._history: History | None = None
        if self.render_mode == "rgb_array":
            from .render import History

            self._history = History(self._sim)
        self._over = False
        self._illegal = 0
        self._last_step = {}
        self._open_interval()
        info: dict[str, Any] = {"time_s": 0.0, "scenario_seed": self.scenario.seed}
        return self._look(True, info), info

    def _open_interval(self) -> None:
        self._chosen = -1
        self._decisions = 0
        self._totals = self._sim.state.totals.copy()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (A,): unrolled ones, or candidates."""
        if not self._observe:
            self._observer.write(self._chosen, self._decisions)
        return self._observer.mask()

    def _look(self, moved: bool, info: dict[str, Any]) -> Observation:
        """The observation; ``moved`` says whether the simulator's state may have changed.

        The mask is added to ``info`` where observations are written and actions are discrete.
        """
        if self.render_mode == "human" and self._decisions == 0:
            from .render import write_text

            show_human(write_text(self._sim, self._last_step, self.scenario.name))
        if not self._observe:
            return self._observer.blank()
        self._observer.write(self._chosen, self._decisions, moved)
        if self.knobs is None:
            info["action_mask"] = as_action_mask(self._observer.mask())
        return self._observer.copy()

    def step(self, action: Any) -> StepResult:
        """Take one action, or carry out the decisions of a whole interval.

        Args:
            action: What ``action_space`` holds, or a ``Decisions``.

        Returns:
            Observation, reward, False, whether the horizon is reached, and info: always ``duration``, the
            intervals of time that have passed (0.0 or 1.0: learners discount by gamma ** duration), and
            ``action_mask`` (int8, which actions are legal now; not with ``knobs``, nor where nothing is
            observed); after an interval ``time_s``, ``reward_terms`` and ``step_metrics`` (``refusals`` and
            ``forced_stop`` if there are any), at the end of the episode ``metrics`` and ``illegal_actions``;
            after an illegal action ``illegal_action`` with the reason.

        Raises:
            ResetNeeded: After the end of an episode, or before the first.
            ConfigError: If the action is no whole number (``knobs``: not so many finite numbers).
        """
        need_begun(not self._over)
        if isinstance(action, Decisions):
            return self._run_decisions(action)
        if self.knobs is not None:
            return self._run_decisions(self.knobs.plan(action, self._sim.view))
        return self._choose(need_action(action))

    def _choose(self, action: int) -> StepResult:
        """One unrolled action, or one candidate."""
        if action == 0 and self._chosen < 0:
            return self._run_interval({}, 0)
        self._decisions += 1
        if isinstance(self._observer, Observer):
            reason, illegal, moved = self._take_unrolled(action)
        else:
            reason, illegal, moved = self._take_candidate(self._observer, action)
        self._illegal += illegal
        info: dict[str, Any] = {"illegal_action": reason} if illegal else {}
        if self._decisions >= self.max_decisions_per_interval:
            if self.actions == "unrolled":
                info["forced_stop"] = True
            return self._run_interval(info, illegal)
        if moved and self._sim.params.full:
            self._sim.show()
        reward = 0.0
        if illegal:
            info["reward_terms"] = {"illegal": float(illegal)}
            reward = self._reward.total(info["reward_terms"])
        info["duration"] = 0.0
        return self._look(moved, info), reward, False, False, info

    def _take_unrolled(self, action: int) -> tuple[str, int, bool]:
        """Carry it out; why it is illegal, orders refused, and whether the simulator's state has changed."""
        sim, before = self._sim, self._chosen
        code, self._chosen = take(sim.kernel_params, sim.kernel_state, sim.shown[1], action, before)
        # Only an order that was carried out changes the state; choosing a VM and letting it go do not.
        return ACTION_REASONS[code], int(code != 0), code == 0 and self._chosen < 0 and action != 0

    def _take_candidate(self, form: CandidateForm, action: int) -> tuple[str, int, bool]:
        """The same of a candidate."""
        if not self._observe:
            form.write(-1, self._decisions)
        refused = form.take(action)
        return ACTION_REASONS[NOT_OFFERED], abs(refused), refused >= 0

    def metrics(self) -> dict[str, float]:
        """Every metric of the episode so far, those of one's own last."""
        own = own_metrics(self.own_metrics)
        return self._sim.metrics() | {name: float(own[name](self._sim)) for name in self.own_metrics}

    def _run_decisions(self, decisions: Decisions) -> StepResult:
        refusals = self._sim.apply(decisions)
        self._illegal += len(refusals)
        info: dict[str, Any] = {}
        if refusals:
            info["refusals"] = [str(refusal) for refusal in refusals]
        return self._run_interval(info, len(refusals))

    def _run_interval(self, info: dict[str, Any], illegal: int) -> StepResult:
        """Let one interval pass and sum it up."""
        sim = self._sim
        if self._history is not None:
            self._history.open(sim)
        sim.advance()
        delta = StepMetrics(sim.state.totals - self._totals)
        summary = interval_metrics(sim.params, delta)
        self._observer.remember()
        if self._history is not None:
            self._history.close(sim, summary)
        terms = self._reward.terms(delta, illegal)
        self._open_interval()
        self._over = sim.done
        info["duration"], info["time_s"] = 1.0, sim.time_s
        info["reward_terms"] = terms
        info["step_metrics"] = self._last_step = summary
        if self._over:
            info["metrics"] = self.metrics()
            info["illegal_actions"] = self._illegal
        return self._look(True, info), self._reward.total(terms), False, self._over, info

    def render(self) -> Any:
        """Show the cluster: text for ``ansi``, a picture (height, width, 3) of uint8 for ``rgb_array``.

        ``human`` has printed the text already, after each interval.
        """
        from .render import draw_frame, write_text  # with Pillow, which else nobody needs

        if self.render_mode == "ansi":
            return write_text(self._sim, self._last_step, self.scenario.name)
        if self.render_mode == "rgb_array" and self._history is not None:
            return draw_frame(self._sim, self._history, self._last_step, self.scenario.name)
        return None


def _build(
    scenario: str | Mapping[str, Any] | Scenario, seed: int, overrides: Mapping[str, Any] | None
) -> Scenario:
    if isinstance(scenario, Scenario):
        if not overrides:
            return scenario
        seed, scenario = scenario.seed, asdict(scenario.config)
    raw = load_scenario_config(scenario) if isinstance(scenario, str) else scenario
    if raw.get("kind", "cluster") not in ("cluster", "placement"):  # build_scenario says where that is played
        raise ConfigError(
            f"scenario={raw.get('name')}: kind {raw['kind']} does not run in an environment; "
            "use a scenario of kind cluster"
        )
    return build_scenario(raw, seed=seed, overrides=overrides)
