"""Expert iteration: a search teaches a network, which then guides the search, and PPO goes on from there.

The first rounds imitate a search in whose forks nothing happens after the candidate that is tried. From then
on the network plays on in the forks, and says which candidates are worth trying: what is imitated becomes one
step of policy iteration on the network itself (Anthony, Tian & Barber, NeurIPS 2017). The rest of the
training is PPO from there: what forecasts do not tell, only the environment does.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from virtgym.envs.errors import ConfigError
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.storage import Agent, Member

from .cluster_task import ClusterTrainTask
from .imitation import ImitationLearner, make_teachers
from .learners import Arrays
from .sb3 import Sb3Learner, make_sb3_learner
from .settings.base import AgentConfig, PpoConfig
from .settings.own import ExpertConfig
from .teachers import SearchTeacher


def make_expert_learner(task: ClusterTrainTask, config: AgentConfig) -> ExpertLearner:
    """Make the learner.

    Args:
        task: What is to be learned.
        config: An ``ExpertConfig``.

    Raises:
        ConfigError: If the teacher is no search, or the network none that plays in one.
    """
    assert isinstance(config, ExpertConfig)
    teachers = make_teachers(task, config)
    if not all(isinstance(teacher, SearchTeacher) for teacher in teachers):
        raise ConfigError(f"agent.teacher={config.teacher}: must be a rollout_search")
    if config.network != "scorer":
        raise ConfigError(f"agent.network={config.network}: must be scorer, which plays in forks")
    return ExpertLearner(task, config, teachers)


class ExpertLearner:
    """Search, imitation and PPO in turn.

    Args:
        task: What is to be learned.
        config: Settings.
        teachers: The search of every scenario.
    """

    def __init__(self, task: ClusterTrainTask, config: ExpertConfig, teachers: list[Any]) -> None:
        self.task, self.config, self.teachers = task, config, teachers
        part = replace(task, total_timesteps=int(config.search_share * task.total_timesteps))
        self.imitation = ImitationLearner(part, config, teachers)
        self.ppo: Sb3Learner | None = None

    @property
    def timesteps(self) -> int:
        """Decisions learned from so far."""
        return self.imitation.timesteps + (self.ppo.timesteps if self.ppo is not None else 0)

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """A round of imitation, or one of PPO."""
        if self.imitation.timesteps < self.imitation.task.total_timesteps:
            if self.imitation.rounds >= self.config.warm_up:
                for stage, teacher in zip(self.task.stages, self.teachers):
                    agent = Agent(self.imitation.snapshot(), "cluster", stage.protocol)
                    teacher.policy.follow(LearnedPolicy(agent, "student"))
                    teacher.policy.rollouts = self.config.search_rollouts
            return self.imitation.learn_chunk(timesteps)
        if self.ppo is None:
            self.ppo = self._begin_ppo()
        return self.ppo.learn_chunk(timesteps)

    def _begin_ppo(self) -> Sb3Learner:
        """PPO with the network as imitation has left it."""
        c = self.config
        settings = {f.name: getattr(c, f.name) for f in fields(PpoConfig)}
        config = PpoConfig(**{**settings, "learning_rate": c.ppo_learning_rate})
        rest = max(1, self.task.total_timesteps - self.imitation.timesteps)
        learner = make_sb3_learner(replace(self.task, total_timesteps=rest), config)
        learner.load_member(self.imitation.snapshot()[0])
        return learner

    def snapshot(self) -> tuple[Member, ...]:
        """The network as it is now."""
        return (self.imitation if self.ppo is None else self.ppo).snapshot()

    def load_member(self, member: Member) -> None:
        """Begin with the weights of an agent."""
        self.imitation.load_member(member)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Both parts."""
        found, state = self.imitation.arrays()
        arrays: Arrays = {f"imitation/{k}": v for k, v in found.items()}
        states: dict[str, Any] = {"imitation": state}
        if self.ppo is not None:
            found, states["ppo"] = self.ppo.arrays()
            arrays |= {f"ppo/{k}": v for k, v in found.items()}
        return arrays, states

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = {
            part: {k.removeprefix(f"{part}/"): v for k, v in arrays.items() if k.startswith(f"{part}/")}
            for part in state
        }
        self.imitation.restore(parts["imitation"], state["imitation"])
        if "ppo" in state:
            self.ppo = self._begin_ppo()
            self.ppo.restore(parts["ppo"], state["ppo"])
