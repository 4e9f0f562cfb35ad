"""Placement rules: what is refused, what they say, and how a scenario names VMs and hosts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.models.rules import Rules, VmHostRule, merge_groups
from virtgym.envs.sim.simulator import Simulator

MakeSim = Callable[..., Simulator]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"affinity": ((),)}, r"^rules.affinity: needs VMs$"),
        ({"anti_affinity": ((1, 1, 2),)}, r"^rules.anti_affinity=\[1, 1, 2\]: a VM is named twice$"),
        ({"affinity": ((-1, 2),)}, r"^rules.affinity=\[-1, 2\]: must be 0 or more$"),
        (
            {"affinity": ((0, 1), (1, 2)), "anti_affinity": ((5, 2, 0),)},
            r"^rules: VMs 2 and 0 are to be together",
        ),
        (
            {"must": (VmHostRule((3,), (0, 1)), VmHostRule((3, 4), (2,)))},
            r"^rules.must: no host is left for VM 3$",
        ),
        (
            {"affinity": ((0, 1),), "must": (VmHostRule((0,), (0,)), VmHostRule((1,), (1,)))},
            r"^rules: no host may hold all of the VMs \[0, 1\]",
        ),
        (
            {"anti_affinity": ((0, 1, 2),), "must": (VmHostRule((0, 1, 2), (4, 5)),)},
            r"^rules.anti_affinity=\[0, 1, 2\]: 3 of them .* from 0 s on, and only 2 hosts are allowed$",
        ),
    ],
)
def test_rules_that_nobody_could_keep_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Rules(**fields).check(8, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("vms", "hosts", "message"), [((), (0,), "rules.vms"), ((0,), (), "rules.hosts")])
def test_a_vm_host_rule_needs_both(vms: Any, hosts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VmHostRule(vms, hosts)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=3, unique=True).map(tuple), max_size=5))
def test_joined_groups_are_the_connected_parts(groups: list[tuple[int, ...]]) -> None:
    near = np.eye(8, dtype=bool)
    for group in groups:
        for a, b in product(group, group):
            near[a, b] = True
    reach = np.linalg.matrix_power(near.astype(float), 8) > 0
    merged = merge_groups(groups)
    label = {v: i for i, group in enumerate(merged) for v in group}
    for a, b in product(range(8), range(8)):
        together = a in label and b in label and label[a] == label[b]
        assert together == (bool(reach[a, b]) and a in label)


def test_a_cluster_refuses_rules_about_what_it_does_not_have(make_sim: MakeSim) -> None:
    ok = Rules(affinity=((0, 1),), must=(VmHostRule((0,), (1,)),))
    assert make_sim([[0.1, 0.1]], n_hosts=2, rules=ok).config.rules is ok
    for rules, message in (
        (Rules(affinity=((0, 2),)), "rules.affinity: VM 2: no such one, must lie in 0..1"),
        (Rules(should=(VmHostRule((0,), (2,)),)), "rules.should: host 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_sim([[0.1, 0.1]], n_hosts=2, rules=rules)
    with pytest.raises(ConfigError, match="there are 2 hosts only"):
        make_sim([[0.1] * 3], n_hosts=2, rules=Rules(anti_affinity=((0, 1, 2),)))


FULL = Rules(anti_affinity=((0, 1, 2),))
PAIR = Rules(affinity=((0, 1),), must=(VmHostRule((0,), (0,)), VmHostRule((1,), (1,))))
BOTH = Rules(affinity=((0, 1),), anti_affinity=((0, 1),))
FEW = Rules(anti_affinity=((0, 1),), must=(VmHostRule((0, 1), (1,)),))
NONE = Rules(must=(VmHostRule((1,), (0,)), VmHostRule((1,), (1,))))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (FULL, r"3 of them are there at the same time, from 20 s on, and there are 2 hosts only$"),
        (PAIR, r"no host may hold all of the VMs \[0, 1\]"),
        (BOTH, r"VMs 0 and 1 are to be together and apart"),
        (FEW, r"2 of them are there at the same time, from 10 s on, and only 1 hosts are allowed$"),
        (NONE, r"no host is left for VM 1$"),
    ],
)
def test_rules_are_judged_by_who_is_there_at_the_same_time(rules: Rules, message: str) -> None:
    arrival = np.array([0.0, 10.0, 20.0])
    with pytest.raises(ConfigError, match=message):
        rules.check(3, 2, arrival, np.full(3, np.inf))
    rules.check(3, 2, arrival, np.full(3, np.inf), horizon_s=10.0)  # the second never comes
    if rules is not NONE:
        rules.check(3, 2, arrival, arrival + 10.0)  # one leaves when the next comes


def test_a_rule_about_one_vm_asks_for_nothing(make_sim: MakeSim) -> None:
    for rules in (Rules(affinity=((1,),)), Rules(anti_affinity=((1,),))):
        assert make_sim([[0.1, 0.1]], n_hosts=1, rules=rules).config.rules is rules


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_the_most_there_at_once_decide(lives: list[tuple[int, int]], n_hosts: int) -> None:
    arrival = np.array([float(start) for start, _ in lives])
    departure = arrival + np.array([float(length) for _, length in lives])
    most = max(int(((arrival <= t) & (t < departure)).sum()) for t in range(17))
    rules = Rules(anti_affinity=(tuple(range(len(lives))),))
    if most <= n_hosts:
        rules.check(len(lives), n_hosts, arrival, departure)
    else:
        with pytest.raises(ConfigError, match=f"there are {n_hosts} hosts only$"):
            rules.check(len(lives), n_hosts, arrival, departure)


def test_a_scenario_names_vms_and_hosts_by_index_or_pattern() -> None:
    groups = {
        "affinity": [{"vms": [0, 1]}],
        "anti_affinity": [{"vms": ["vm-4[0-6]", 3]}],
        "must": [{"vms": ["vm-49"], "hosts": ["hp_*"]}],
        "should": [{"vms": [7], "hosts": [2, 0]}],
    }
    rules = build_scenario("small", overrides={"rules": groups}).cluster.rules
    assert rules.affinity == ((0, 1),)
    assert rules.anti_affinity == ((3, *range(40, 47)),)
    assert rules.must == (VmHostRule((49,), (1, 3, 5, 7, 9)),)
    assert rules.should == (VmHostRule((7,), (0, 2)),)
    assert not build_scenario("small").cluster.rules


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"affinity": [{"vms": ["web*"]}]}, r"^scenario.rules.affinity.0.vms=web\*: matches no name"),
        ({"must": [{"vms": [0], "hosts": [10]}]}, r"^scenario.rules.must.0.hosts=10: no such index"),
        ({"must": [{"vms": [0]}]}, r"^scenario.rules.must.0.hosts: needs indices"),
        ({"should": [{"vms": [0.5], "hosts": [1]}]}, r"^scenario.rules.should.0.vms=0.5: must be an index"),
        ({"anti_affinity": [{"vms": ["vm-*"]}]}, r"^scenario.rules.anti_.*50 of .* 10 hosts only"),
        ({"affinity": [{"vm": [4]}]}, r"no such key \(did you mean vms\?\)"),
        ({"afinity": []}, r"no such key \(did you mean affinity\?\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_scenario_is_one_line(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_scenario("small", overrides={"rules": groups})
    assert "\n" not in str(caught.value)
