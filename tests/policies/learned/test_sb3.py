"""Our policies and algorithms inside Stable-Baselines3: legal, and the same numbers as its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.traces.requests import RequestTrace
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.architecture import Layout
from virtgym.policies.learned.storage import Agent, Member

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")
from sb3_contrib import MaskablePPO  # noqa: E402
from stable_baselines3 import A2C, DQN, PPO  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

from virtgym.envs.sb3 import PlacementVecEnv  # noqa: E402
from virtgym.policies.learned.sb3_algorithms import (  # noqa: E402
    BatchedDQN,
    BatchedMaskablePPO,
    BatchedPPO,
    BatchedReplayBuffer,
    BatchedRolloutBuffer,
    MaskedRolloutBuffer,
    RewardScale,
)
from virtgym.policies.learned.sb3_policies import (  # noqa: E402
    ActorCriticNetPolicy,
    MaskableNetPolicy,
    QNetPolicy,
    flatten_observation,
)

POLICIES = {
    PPO: ActorCriticNetPolicy,
    A2C: ActorCriticNetPolicy,
    DQN: QNetPolicy,
    MaskablePPO: MaskableNetPolicy,
}


def _small_requests() -> RequestTrace:
    """VMs that keep a small cluster busy, so that windows are short and some wait."""
    rng = np.random.default_rng(0)
    n = 3000
    return RequestTrace(
        name="small",
        format="synthetic",
        source="test",
        cores=rng.integers(1, 5, n).astype(float),
        memory_gib=rng.integers(1, 13, n).astype(float),
        arrival_s=np.cumsum(rng.exponential(60.0, n)).round(),
        lifetime_s=rng.exponential(600.0, n).round() + 1.0,
        vm_ids=np.arange(n),
    )


def make_envs(n: int = 8, flat: bool = True, seed: int = 3, observation: str = "basic", **config: Any) -> Any:
    cluster = {"n_hosts": 2, "node_cores": 8, "node_memory_gib": 40, **config}
    envs = PlacementVecEnv(n, _small_requests(), cluster, flat=flat, observation=observation)
    envs.seed(seed)
    return envs


@pytest.mark.parametrize("network", ["equivariant", "mlp"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, MaskablePPO])
def test_sb3_trains_our_policies_and_they_act_legally(algorithm: Any, flat: bool, network: str) -> None:
    """SB3's own algorithms, not ours, on flat and on Dict observations."""
    envs = make_envs(flat=flat)
    own = {"learning_starts": 16, "buffer_size": 500} if algorithm is DQN else {"n_steps": 8}
    model = algorithm(POLICIES[algorithm], envs, policy_kwargs={"network": network}, seed=0, **own)
    model.learn(128)
    observation = envs.reset()
    for _ in range(50):
        mask = envs.action_masks()
        actions, _ = (
            model.predict(observation, deterministic=False)
            if algorithm is not DQN
            else (model.policy.predict(observation))
        )  # DQN's predict explores, masks or not
        assert mask[np.arange(8), actions].all()
        observation, _, _, _ = envs.step(actions)


@pytest.mark.parametrize("observation", ["basic", "slots"])
@pytest.mark.parametrize("network", ["equivariant", "mlp"])
def test_the_saved_agent_does_what_the_model_does(network: str, observation: str) -> None:
    envs = make_envs(observation=observation)
    kwargs = {"network": network, "observation": observation}
    model = PPO(ActorCriticNetPolicy, envs, n_steps=16, batch_size=64, policy_kwargs=kwargs, seed=0)
    model.learn(512)
    net: Any = model.policy.net
    layout = Layout.current(observation)
    member = Member(net.architecture, layout, {k: v.numpy() for k, v in net.state_dict().items()})
    agent = LearnedPolicy(Agent((member,)))
    observed = envs.reset()
    for _ in range(40):
        actions, _ = model.predict(observed, deterministic=True)
        _, n_request, n_globals = layout.sizes
        nodes, request, rest = np.split(observed, [-n_request - n_globals, -n_globals], axis=1)
        mine, _ = agent.predict({"nodes": nodes, "request": request, "globals": rest})
        with torch.no_grad():  # rounding may decide between nodes that are alike
            scores = net.scores(torch.from_numpy(observed)).numpy()
        np.testing.assert_allclose(scores[np.arange(8), mine], scores[np.arange(8), actions], atol=1e-5)
        observed, _, _, _ = envs.step(actions)


def _filled(kind: Any, **fields: Any) -> Any:
    """A model after one rollout, and before its update."""
    torch.manual_seed(1)
    model = kind(envs := make_envs(), n_steps=64, batch_size=64, **fields)
    model.rng = np.random.default_rng(0)
    torch.manual_seed(2)
    _, callback = model._setup_learn(512)
    model.collect_rollouts(envs, callback, model.rollout_buffer, 64)
    return model


def rollouts(policy: Any, theirs: Any, ours: Any, buffer: Any) -> tuple[Any, Any]:
    def of(kind: Any, **fields: Any) -> Any:
        return _filled(lambda envs, **more: kind(policy, envs, **more, **fields))

    return of(theirs), of(ours, rollout_buffer_class=buffer)


@pytest.mark.parametrize(
    ("policy", "theirs", "ours", "buffer"),
    [
        (ActorCriticNetPolicy, PPO, BatchedPPO, BatchedRolloutBuffer),
        (MaskableNetPolicy, MaskablePPO, BatchedMaskablePPO, MaskedRolloutBuffer),
    ],
)
def test_our_rollouts_are_those_of_sb3(policy: Any, theirs: Any, ours: Any, buffer: Any) -> None:
    """The same seeds give the same transitions, advantages and returns, to the last bit."""
    a, b = rollouts(policy, theirs, ours, buffer)
    for name in ("observations", "actions", "rewards", "values", "log_probs", "episode_starts", "advantages"):
        np.testing.assert_array_equal(getattr(b.rollout_buffer, name), getattr(a.rollout_buffer, name), name)
    np.testing.assert_array_equal(b.rollout_buffer.returns, a.rollout_buffer.returns)
    assert a.rollout_buffer.episode_starts.sum() > 8  # episodes have ended within
    assert list(a.ep_info_buffer)[-1]["r"] == list(b.ep_info_buffer)[-1]["r"]
    batches = list(b.rollout_buffer.get(100))
    assert [len(batch.actions) for batch in batches] == [100, 100, 100, 100, 100, 12]
    seen = np.sort(torch.cat([batch.returns for batch in batches]).numpy().ravel())
    np.testing.assert_array_equal(seen, np.sort(b.rollout_buffer.returns.ravel()))


def test_a_game_that_is_cut_off_is_worth_what_follows() -> None:
    """Survival games that run out of requests are truncated: SB3 adds the value of the last observation."""

    def model(kind: Any, **more: Any) -> Any:
        torch.manual_seed(1)
        envs = make_envs(protocol="recovering", max_requests=5)
        made = kind(ActorCriticNetPolicy, envs, n_steps=12, batch_size=96, **more)
        made.rng = np.random.default_rng(0)
        _, callback = made._setup_learn(96)
        made.collect_rollouts(envs, callback, made.rollout_buffer, 12)
        return made

    a, b = model(PPO), model(BatchedPPO, rollout_buffer_class=BatchedRolloutBuffer)
    assert (a.rollout_buffer.rewards != 1.0).any()
    np.testing.assert_allclose(b.rollout_buffer.rewards, a.rollout_buffer.rewards, atol=1e-6)


def test_rewards_are_scaled_as_vec_normalize_does() -> None:
    rng = np.random.default_rng(0)
    scale, theirs = (
        RewardScale(8, 0.97),
        VecNormalize(make_envs(), norm_obs=False, gamma=0.97, clip_reward=1e9),
    )
    for _ in range(200):
        rewards, dones = rng.lognormal(0.0, 2.0, 8), rng.random(8) < 0.1
        theirs.old_reward = rewards
        theirs._update_reward(rewards)
        want = theirs.normalize_reward(rewards)
        theirs.returns[dones] = 0.0
        np.testing.assert_allclose(scale(rewards, dones), want, rtol=1e-6)


def make_dqn(**fields: Any) -> Any:
    settings = {"learning_starts": 10_000, "buffer_size": 800, "replay_buffer_class": BatchedReplayBuffer}
    model = BatchedDQN(QNetPolicy, make_envs(), **{**settings, **fields})
    model.rng = np.random.default_rng(0)
    return model


def test_dqn_explores_legal_actions_each_environment_by_itself() -> None:
    model = make_dqn()
    envs = model.env
    observation = model._last_obs = envs.reset()
    mixed = 0
    for epsilon in (0.0, 0.5, 1.0) * 20:
        model.exploration_rate = epsilon
        actions, _ = model.predict(observation)
        greedy, _ = model.predict(observation, deterministic=True)
        mask = envs.action_masks()
        assert mask[np.arange(8), actions].all()
        assert mask[np.arange(8), greedy].all()
        mixed += 0 < (actions == greedy).sum() < 8
        if epsilon == 0.0:
            np.testing.assert_array_equal(actions, greedy)
        warm, _ = model._sample_action(10_000, None, 8)  # before learning starts
        assert mask[np.arange(8), warm].all()
        observation, _, _, _ = envs.step(actions)
        model._last_obs = observation
    assert mixed > 5


def test_dqn_does_not_bootstrap_from_illegal_actions() -> None:
    model = make_dqn()
    observation = torch.from_numpy(model.env.reset())
    values = model.q_net_target(observation)
    raw = model.q_net_target.net.scores(observation)
    mask = torch.from_numpy(model.env.action_masks())
    assert (values[~mask] == -1e8).all()
    torch.testing.assert_close(values[mask], raw[mask])


def test_replay_samples_are_transitions_that_happened() -> None:
    model = make_dqn(learning_starts=100, batch_size=64)
    model.learn(1200)
    buffer = model.replay_buffer
    buffer.rng = np.random.default_rng(1)
    batch = buffer.sample(50)
    stored = buffer.observations.reshape(-1, buffer.observations.shape[-1])
    for i in range(50):
        (rows,) = np.nonzero((stored == batch.observations[i].numpy()).all(axis=1))
        rewards, actions = buffer.rewards.ravel()[rows], buffer.actions.ravel()[rows]
        assert (float(batch.rewards[i]), int(batch.actions[i])) in set(
            zip(rewards.tolist(), actions.tolist())
        )


def test_dict_and_flat_observations_are_the_same() -> None:
    flat, parts = make_envs(), make_envs(flat=False)
    np.testing.assert_array_equal(flatten_observation(parts.reset()).numpy(), flat.reset())


def test_no_global_random_state_is_used() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    model = make_dqn(learning_starts=100, batch_size=64)
    model.learn(400)
    a = _filled(
        lambda envs, **more: BatchedPPO(
            ActorCriticNetPolicy, envs, rollout_buffer_class=BatchedRolloutBuffer, **more
        )
    )
    a.train()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002
