"""Rollout policy iteration on placement: the learner, what it selects by, and who is surely better."""
