"""The one loop that runs every kind of policy: the public face of ``experiments.run.rollout``."""

from .run.rollout import make_env, policy_rng, rollout

__all__ = ["make_env", "policy_rng", "rollout"]
