"""Rollout policy iteration on placement: the learner, the windows it selects by, and when it is surely better."""
