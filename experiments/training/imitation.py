"""Imitation: a network that learns what a teacher chooses, also where the network itself has led.

A round plays episodes and asks the teacher about every state on the way. Who acts is drawn for each decision:
chance, the student, whose share grows, or the teacher; so the student learns to get out of the states that
its own mistakes lead to (DAgger: Ross, Gordon & Bagnell, AISTATS 2011). Then the network is moved, by several
passes over all states so far, towards the least

    E_s [ - Σ_k q(k | s) ln π(k | s) ],

where q are the teacher's probabilities: of a search a softmax of what candidates are worth, so that choices
that come to the same are not told apart, of others 1 for what they choose.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F4, F8, I8
from virtgym.policies.learned.architecture import Architecture
from virtgym.policies.learned.kernel_net import BatchNet
from virtgym.policies.learned.networks import MASKED, build_network
from virtgym.policies.learned.storage import Member
from virtgym.policies.ties import first_best

from .cluster_task import ClusterTrainTask
from .learners import Arrays, need_same
from .rescheduling_task import ReschedulingTrainTask
from .settings.base import AgentConfig
from .settings.own import ImitationConfig
from .teachers import Teacher, make_move_teacher, make_teacher
from .torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer

Imitated = ClusterTrainTask | ReschedulingTrainTask
"""What can be imitated on."""


def make_imitation_learner(task: Imitated, config: AgentConfig) -> ImitationLearner:
    """Make the learner.

    Args:
        task: What is to be learned.
        config: An ``ImitationConfig``.

    Raises:
        ConfigError: If there is no such teacher.
    """
    assert isinstance(config, ImitationConfig)
    return ImitationLearner(task, config, make_teachers(task, config))


def make_teachers(task: Imitated, config: ImitationConfig) -> list[Teacher]:
    """A teacher for every scenario of a task: rewards differ, and teachers remember.

    Raises:
        ConfigError: If there is no such teacher.
    """
    c = config
    if isinstance(task, ReschedulingTrainTask):
        return [make_move_teacher(c.teacher, c.teacher_params)]
    return [make_teacher(c.teacher, c.teacher_params, one.reward, c.temperature) for one in task.stages]


@dataclass
class States:
    """States and what the teacher says of them; of candidates, those that are offered.

    Attributes:
        capacity: States that are kept, the latest.
        slots: Of each state the slots that are offered, (n,).
        rows: Their rows, (n, F).
        globals: The global vector, (G,).
        targets: The teacher's probabilities, (n,).
    """

    capacity: int
    slots: list[I8] = field(default_factory=list)
    rows: list[F4] = field(default_factory=list)
    globals: list[F4] = field(default_factory=list)
    targets: list[F4] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of states."""
        return len(self.slots)

    def add(self, rows: F4, whole: F4, mask: B1, target: F8) -> None:
        """Keep a state, and forget the oldest if there are too many.

        Args:
            rows: Rows of all candidates, (K, F).
            whole: The global vector, (G,).
            mask: Which are offered, (K,).
            target: The teacher's probabilities, (K,).
        """
        slots: I8 = np.flatnonzero(mask)
        new = (slots, rows[slots], whole.copy(), target[slots].astype(np.float32))
        for kept, one in zip(self._lists(), new):
            kept.append(one)
            del kept[: -self.capacity]

    def _lists(self) -> tuple[list[Any], ...]:
        return self.slots, self.rows, self.globals, self.targets

    def batch(self, which: I8, n: int) -> tuple[F4, F4, B1]:
        """Flat observations, targets and masks of some states, (b, ...), with n candidates each."""
        f, g = self.rows[0].shape[1], len(self.globals[0])
        flat = np.zeros((len(which), n * f + g), np.float32)
        target = np.zeros((len(which), n), np.float32)
        mask = np.zeros((len(which), n), np.bool_)
        rows = flat[:, : n * f].reshape(len(which), n, f)
        for i, j in enumerate(which.tolist()):
            slots = self.slots[j]
            rows[i, slots], target[i, slots], mask[i, slots] = self.rows[j], self.targets[j], True
            flat[i, n * f :] = self.globals[j]
        return flat, target, mask

    def arrays(self) -> Arrays:
        """All of it, end to end."""
        if not len(self):
            return {}
        counts = np.array([len(slots) for slots in self.slots])
        names = ("slots", "rows", "targets")
        found = {name: np.concatenate(getattr(self, name)) for name in names}
        return {**found, "counts": counts, "globals": np.stack(self.globals)}

    def restore(self, arrays: Arrays) -> None:
        """Take up what ``arrays`` gave."""
        if not arrays:
            return
        cuts = np.cumsum(arrays["counts"])[:-1]
        self.slots, self.rows, self.targets = (
            np.split(arrays[name], cuts) for name in ("slots", "rows", "targets")
        )
        self.globals = list(arrays["globals"])


class Round(NamedTuple):
    """What the episodes of a round gave."""

    student_share: float
    episode_reward: float
    collect_s: float


class ImitationLearner:
    """Learns what a teacher chooses.

    Args:
        task: What is to be learned.
        config: Settings.
        teachers: The teacher of every scenario.
    """

    def __init__(self, task: Imitated, config: ImitationConfig, teachers: list[Teacher]) -> None:
        torch.set_num_threads(1)
        self.task, self.config, self.teachers = task, config, teachers
        self.envs: list[Any] = [one.make_env() for one in task.stages]
        self.n = int(self.envs[0].action_space.n)
        self.layout = task.layout(config)
        fixed = self.n if config.network == "mlp" else 0
        self.architecture = Architecture(
            config.network, *self.layout.sizes, fixed, 0, tuple(config.hidden), config.activation
        )
        seeds = task.seeds(2)
        torch.manual_seed(seeds[0])
        self.net = build_network(self.architecture).to(task.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), config.learning_rate)
        self.rng = np.random.default_rng(seeds[1])
        self.states = States(config.buffer_size)
        self.timesteps = 0
        self.rounds = 0
        self.episodes = 0

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One round: ``num_envs`` episodes, fewer at the end of training, then passes over all states."""
        played, start = self.collect(), time.perf_counter()
        loss, agreement = self._learn()
        return self.measured(played, loss, agreement, time.perf_counter() - start)

    def collect(self) -> Round:
        """Play the episodes of a round."""
        start = time.perf_counter()
        share = self.config.student_share * self.timesteps / max(1, self.task.total_timesteps)
        student = BatchNet(self.architecture, self.snapshot()[0].weights)
        earned = []
        for _ in range(self.task.num_envs):
            earned.append(self._play(student, share))
            if self.timesteps >= self.task.total_timesteps:
                break
        self.rounds += 1
        return Round(share, float(np.mean(earned)), time.perf_counter() - start)

    def measured(self, played: Round, loss: float, agreement: float, update_s: float) -> dict[str, float]:
        """What a round gave."""
        return {
            "loss": loss,
            "agreement": agreement,
            "student_share": played.student_share,
            "episode_reward": played.episode_reward,
            "states": float(len(self.states)),
            "collect_s": played.collect_s,
            "update_s": update_s,
        }

    def _play(self, student: BatchNet, share: float) -> float:
        """An episode, of a mixture each scenario in turn; its sum of rewards."""
        rng, noise = self.rng, self.config.noise
        stage = self.episodes % len(self.envs)
        env, teacher = self.envs[stage], self.teachers[stage]
        self.episodes += 1
        env.reset(seed=int(rng.integers(2**31 - 1)))
        teacher.begin(env, np.random.default_rng(int(rng.integers(2**31 - 1))))
        total, over = 0.0, False
        while not over:
            flat, mask = self.task.look(env)
            target = teacher.target()
            draw, chosen = rng.random(), int(np.argmax(target))
            if mask.sum() > 1:
                rows = flat[: -len(self.layout.columns[-1])].reshape(self.n, -1)
                self.states.add(rows, flat[rows.size :], mask, target)
            if draw < noise:
                chosen = int(rng.choice(np.flatnonzero(mask)))
            elif draw < noise + (1.0 - noise) * share:
                chosen = int(first_best(student.scores(flat[None])[0], mask))
            _, reward, terminated, truncated, _ = env.step(chosen)
            total, over = total + float(reward), terminated or truncated
            self.timesteps += 1
        return total

    def _learn(self) -> tuple[float, float]:
        """Move the network; mean loss and agreement over the last pass."""
        c, n = self.config, len(self.states)
        if n == 0:
            return float("nan"), float("nan")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        told: list[tuple[float, float]] = []
        for _ in range(c.n_epochs):
            order = self.rng.permutation(n)
            told = [self._step(order[at : at + c.batch_size]) for at in range(0, n, c.batch_size)]
        loss, agreement = np.mean(told, axis=0)
        return float(loss), float(agreement)

    def rate(self) -> float:
        """Step size now."""
        c = self.config
        left = 1.0 - self.timesteps / max(1, self.task.total_timesteps)
        return c.learning_rate * (max(0.01, left) if c.schedule == "linear" else 1.0)

    def _step(self, which: NDArray[Any]) -> tuple[float, float]:
        """One minibatch; its loss, and how often the student chooses what the teacher is fine with.

        That is a candidate with at least half of the best one's probability.
        """
        flat, target, mask = (
            torch.from_numpy(part).to(self.task.device) for part in self.states.batch(which, self.n)
        )
        scores = self.net.scores(flat).masked_fill(~mask, MASKED)
        loss = -(target * scores.log_softmax(dim=1)).sum(dim=1).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        chosen = target.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)
        return loss.item(), (chosen >= 0.5 * target.amax(dim=1)).float().mean().item()

    def snapshot(self) -> tuple[Member, ...]:
        """The network as it is now."""
        weights = {name: as_numpy(value) for name, value in self.net.state_dict().items()}
        return (Member(self.architecture, self.layout, weights, "logits"),)

    def load_member(self, member: Member) -> None:
        """Begin with the weights of an agent.

        Raises:
            ConfigError: If it is of another architecture, or reads other columns.
        """
        need_same(member, self.architecture, self.layout)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in member.weights.items()})

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Network, optimiser, states and generator."""
        found: Arrays = {f"net/{k}": as_numpy(v) for k, v in self.net.state_dict().items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(self.optimizer).items()}
        found |= {f"states/{k}": v for k, v in self.states.arrays().items()}
        counts = {"timesteps": self.timesteps, "rounds": self.rounds, "episodes": self.episodes}
        return found, {**counts, "rng": self.rng.bit_generator.state}

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = by_prefix(arrays)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parts["net"].items()})
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.states.restore(parts.get("states", {}))
        self.timesteps, self.rounds = int(state["timesteps"]), int(state["rounds"])
        self.episodes = int(state["episodes"])
        self.rng.bit_generator.state = state["rng"]
