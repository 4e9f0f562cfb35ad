"""Suites: tasks, each a question, with a bound that shows the headroom, and one score over all of them."""
