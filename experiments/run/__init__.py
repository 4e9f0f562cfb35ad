"""One cell: a policy on a scenario with a seed; its rollout, record, rows and folder."""
