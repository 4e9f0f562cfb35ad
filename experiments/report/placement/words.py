"""What the numbers of placement windows say, in plain sentences that do not claim more than they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...analysis.placement_summary import Comparison, Entry
from ...analysis.run_data import Group, short_trace
from ...analysis.stats import MIN_BLOCKS, Interval
from ..facts import dropped_note
from ..verdict import Sentence, Strong, Tile


def amount(found: Comparison, value: float) -> str:
    """A result with its unit: seconds of waiting, or requests placed."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.1f}\u00a0requests" if found.survival else f"{value:,.0f}\u00a0s"


def difference(value: float, digits: int = 0) -> str:
    """A signed number."""
    text = f"{value:+,.{digits}f}"
    return ("0" if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def entry_label(entry: Entry) -> str:
    """Name of an entry, with how many agents a learner has."""
    return f"{entry.name} ({len(entry.members)} agents)" if entry.members else entry.name


def _span(found: Comparison, gap: Interval) -> str:
    digits = 1 if found.survival else 0
    text = difference(gap.estimate, digits)
    return f"{text} [{difference(gap.low, digits)}, {difference(gap.high, digits)}]" if gap.known else text


def agent_verdict(found: Comparison, entry: Entry, rule: Entry) -> Sentence:
    """One sentence about a trained policy and the best rule; a loss is said as one.

    Args:
        found: Policies on common windows.
        entry: An agent or a learner.
        rule: The best rule.
    """
    gap = found.gap(entry, rule)
    who: Sentence = ["The trained agent ", Strong(entry.name)]
    if entry.members:
        who = ["The learner ", Strong(entry.name), f", mean of {len(entry.members)} agents,"]
    if found.better(gap) or found.worse(gap):
        verb = "beats" if found.better(gap) else "loses against"
    elif gap.known and found.tells:
        verb = "cannot be told apart from"
    else:
        ahead = gap.estimate > 0 if found.survival else gap.estimate < 0
        verb = "is ahead of" if ahead else "is equal to" if gap.estimate == 0 else "is behind"
        verb += "" if found.tells else f" (from {_blocks(found)}, too few to judge by)"
    values = f"{amount(found, found.value(entry))} against {amount(found, found.value(rule))}"
    chance = f"better in {100.0 * found.chance(entry, rule):.0f} % of windows, ties counting half"
    return [
        *who,
        f" {verb} the best rule ",
        Strong(rule.name),
        f": trimmed mean {values}, difference {_span(found, gap)}; {chance}.",
    ]


def make_placement_verdict(found: Comparison) -> list[Sentence]:
    """The first sentence is the verdict; the others say how far it can be trusted."""
    ranked = [e for e in found.policies if not e.reference]
    if not ranked:
        return [["Only references that know the future were run: there is nothing to rank."]]
    best = ranked[0]
    what = "Most requests placed: " if found.survival else "Least waiting: "
    sentences: list[Sentence] = [
        [
            what if len(ranked) > 1 else "The only policy: ",
            Strong(best.name),
            " with a trimmed mean of ",
            Strong(amount(found, found.value(best))),
            f" over {_windows(found)} in {_blocks(found)}.",
        ]
    ]
    if len(ranked) > 1:
        sentences.append(_how_sure(found, best, ranked[1:]))
    rule = found.best_rule
    if rule is not None:
        sentences += [agent_verdict(found, agent, rule) for agent in found.judged]
    sentences += [_unattainable(e) for e in found.policies if e.reference]
    return sentences


def _windows(found: Comparison) -> str:
    n = len(found.windows)
    return f"{n} window{'s' if n > 1 else ''}"


def _blocks(found: Comparison) -> str:
    n = found.n_blocks
    return f"{n} independent block{'s' if n > 1 else ''}"


def _names(entries: Sequence[Entry], most: int = 4) -> Sentence:
    pieces: Sentence = []
    for i, entry in enumerate(entries[:most]):
        pieces += [", ", Strong(entry.name)] if i else [Strong(entry.name)]
    return [*pieces, f" and {len(entries) - most} more"] if len(entries) > most else pieces


def _how_sure(found: Comparison, best: Entry, others: Sequence[Entry]) -> Sentence:
    if len(found.windows) < 2:
        return ["One window: no intervals, differences may be chance."]
    if not found.tells:
        return [
            f"{_blocks(found).capitalize()} of windows, fewer than {MIN_BLOCKS}: "
            "nothing is said to be better."
        ]
    near = [e for e in others if not found.better(found.gap(best, e))]
    if near:
        why = "the 95 % interval of the paired difference of trimmed means includes 0"
        return ["Not clearly better than ", *_names(near), f": {why}."]
    rival = others[0]
    value = amount(found, found.value(rival))
    return ["Ahead of every other policy in paired comparison; next is ", Strong(rival.name), f" at {value}."]


def _unattainable(entry: Entry) -> Sentence:
    return [Strong(entry.name), " knows what no scheduler can know: a bound for reference, not ranked."]


def make_placement_tiles(found: Comparison) -> list[Tile]:
    """Four numbers at a glance."""
    ranked = [e for e in found.policies if not e.reference]
    if not ranked:
        return []
    sign = -1.0 if found.survival else 1.0
    word = "Highest" if found.survival else "Lowest"
    tiles = []
    for key, label in (("trimmed", "trimmed mean"), ("mean", "mean")):
        best = min(ranked, key=lambda e: sign * found.value(e, key))
        tiles.append(Tile(f"{word} {label}", amount(found, found.value(best, key)), best.name, ""))
    most = max(ranked, key=found.won)
    if len(ranked) > 1:
        note = f"of {len(found.windows)}; equal ones count for all"
        tiles.append(Tile("Best in most windows", str(found.won(most)), most.name, note))
    agent, rule = next(iter(found.judged), None), found.best_rule
    if agent is not None and rule is not None and found.value(rule) > 0:
        share = 100.0 * (found.value(agent) / found.value(rule) - 1.0)
        label = "Learner against best rule" if agent.members else "Agent against best rule"
        tiles.append(Tile(label, f"{difference(share, 1)} %", agent.name, rule.name))
    elif not found.survival:
        least = min(ranked, key=found.per_vm)
        tiles.append(Tile("Least wait per VM", amount(found, found.per_vm(least)), least.name, ""))
    return tiles


def setting(group: Group, key: str) -> Any:
    """A value of ``scenario.placement`` in the stored configuration, None if it is not there."""
    for run in group.runs:
        scenario = run.settings.get("scenario")
        placement = scenario.get("placement") if isinstance(scenario, dict) else None
        if isinstance(placement, dict) and placement.get(key) is not None:
            return placement[key]
    return None


def placement_facts(group: Group, found: Comparison) -> list[str]:
    """Facts for the head line: trace, cluster, protocol, windows, policies, seeds."""
    facts = [f"{len(group.traces)} traces" if group.pooled else f"trace {short_trace(group.traces[0])}"]
    hosts = group.number("n_hosts")
    if math.isfinite(hosts):
        cores, memory = setting(group, "node_cores"), setting(group, "node_memory_gib")
        nodes = ""
        if isinstance(cores, int | float) and isinstance(memory, int | float):
            nodes = f" × 2 nodes of {cores:g} cores, {memory:g} GiB"
        facts.append(f"{hosts:g} hosts{nodes}")
    protocol = setting(group, "protocol")
    if protocol:
        facts.append(f"protocol {str(protocol)[:40]}")
    facts.append(f"{_windows(found)}, {found.n_vms.sum():,.0f} requests")
    facts.append("1 policy" if len(found.policies) == 1 else f"{len(found.policies)} policies")
    seeds = group.seeds
    facts.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")
    return facts


def placement_remarks(group: Group, found: Comparison) -> list[str]:
    """What a reader must know to not read too much into the numbers."""
    notes = []
    if found.survival:
        notes.append("A survival game ends at the first request that fits nowhere; more requests are better.")
    else:
        share = _tail(found)
        notes.append(
            "The trimmed mean leaves out the lowest and the highest 10 % of windows, as in the published "
            f"benchmark; the highest hold {share:.0f} % of all waiting of the best policy, so look at the "
            "mean as well."
        )
    if len(found.windows) > 1:
        notes.append(
            f"Windows overlap: intervals are 95 % percentile bootstraps of {_blocks(found)} of them (2,000 "
            "resamples, the same for all policies; seeds of a policy and agents of a learner are resampled "
            f"too), and from fewer than {MIN_BLOCKS} blocks nothing is said to be better. Those of "
            "differences are paired, and are the ones to compare by."
        )
    if found.n_dropped:
        notes.append(f"{found.n_dropped} windows are left out, in which not every policy has a result.")
    for policy, n in found.n_stuck.items():
        notes.append(f"{policy} rejected requests, or left some that could never be placed, in {n} windows.")
    if found.left_out:
        names = ", ".join(found.left_out)
        notes.append(f"Left out, for having no window in common with the others: {names}.")
    notes += dropped_note(group)
    unfinished = sum(run.n_unfinished for run in group.runs)
    if unfinished:
        notes.append(f"{unfinished} unfinished row{'s' if unfinished > 1 else ''} left out.")
    return notes


def _tail(found: Comparison) -> float:
    """Percentage of the best policy's results in the tenth of its windows with the most."""
    waits = sorted(found.entries[0].runs.mean(axis=0), reverse=True)
    total = sum(waits)
    return 100.0 * float(sum(waits[: int(0.1 * len(waits))]) / total) if total > 0 else 0.0
