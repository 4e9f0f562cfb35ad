"""Whether a policy is certainly better than a rule: bootstrap over blocks of windows."""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import F8, I8

from ...analysis.stats import independent_blocks, paired_samples, trimmed_statistic


def excess_bound(costs: F8, rule: F8, firsts: I8, lengths: I8, confidence: float) -> float:
    """What a policy's trimmed mean exceeds the rule's by at most, with a confidence; below 0 = it is better.

    Windows that overlap, and neighbours, are resampled together (``independent_blocks``), or a lucky stretch
    of rows would look like skill. The resamples are the same whenever it is asked.

    Args:
        costs: Total wait of each window under the policy, s, (W,).
        rule: Under the rule.
        firsts: Row where each begins, (W,).
        lengths: Its rows, (W,).
        confidence: From 0 to 1; 0.5 = about the difference itself.
    """
    blocks = independent_blocks(firsts, lengths, (costs - rule)[None])
    runs = {"policy": costs[None], "rule": rule[None]}
    rng = np.random.default_rng(0)
    found = paired_samples(runs, rng, {"": trimmed_statistic}, blocks=blocks, n_resamples=1000)[""]
    return float(np.quantile(found["policy"] - found["rule"], confidence))
