"""The peer's peculiarities, each one a named switch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError


@dataclass(frozen=True)
class Quirks:
    """Which behaviours of CloudSim 3.0.3 the replica reproduces; every field on = the peer, bit for bit.

    The numbers Q1...Q11 are those used in the documentation (docs/replication.md), where each switch also has
    its measured effect. Off always means "what a reader of the papers would expect".

    Attributes:
        drop_zero_demand: Q1. A VM with two consecutive samples of 0 % is deleted for ever; off: it stays.
        sla_counts_incoming_full: Q2. A host violates when it uses less than its VMs ask for, incoming VMs
            counted with their full demand although they are granted a tenth, compared without tolerance; off:
            only while more is asked from it than it has.
        double_moves: Q3. A host that has just been chosen as a target may be evacuated in the same round, so
            that a VM can be moved twice at once; off: fresh targets are protected.
        memory_ignored: Q4. Memory binds only in the initial placement; off: nominal memory must fit always.
        stale_power: Q5. The cost of a target compares with the host's power before the round; off: with its
            power before this VM is placed. (No switch changes the initial placement.)
        free_power_on: Q5. Switching a host on costs only its dynamic power; off: its idle power is added.
        unweighted_regression: Q6. "lr" and "lrr" are both ordinary least squares; off: lr is LOESS with
            tricube weights and lrr its robust (bisquare) form.
        free_edges: Q7. Nothing is accounted before the first update (300.1 s) and after the last event; off:
            energy and SLA cover the day from 0 to 86,400 s.
        floor_mips: Q9. Under contention, granted MIPS are rounded down to whole numbers.
        no_underload_threshold: Q10. Every host that is not overloaded is tried for evacuation in every round;
            off: only hosts used to less than 30 %.
        never_used_counts_as_shutdown: Q11. A host that never ran a VM counts as one shutdown.
        skip_first_sample: Rounds are at 300.1 s + 300 k s, so that sample 0 is never used and there are 287;
            off: 288 rounds at 300 k s.
        interpolated_demand: Demand is interpolated between samples whenever it is looked at; off: sample k
            holds during [300 k, 300 (k + 1)) s.
        mean_power: Energy between two events uses the mean of the powers at both ends, the later one with the
            demand of the next interval; off: the power of the state that really lasted.
        idle_hosts_are_off: A host whose VMs all ask for nothing counts as switched off; off: a host is on
            while a VM is on it.
        pooled_pdm: PDM is the CPU lost by all VMs over the CPU asked by all; off: the mean over the VMs.
        pdm_counts_contention: Everything a migrating VM lacks is booked on the migration, contention
            included; off: only the tenth that the migration takes.
        pooled_slatah: SLATAH is violating time over active time of all hosts; off: the mean over hosts.
    """

    drop_zero_demand: bool = True
    sla_counts_incoming_full: bool = True
    double_moves: bool = True
    memory_ignored: bool = True
    stale_power: bool = True
    free_power_on: bool = True
    unweighted_regression: bool = True
    free_edges: bool = True
    floor_mips: bool = True
    no_underload_threshold: bool = True
    never_used_counts_as_shutdown: bool = True
    skip_first_sample: bool = True
    interpolated_demand: bool = True
    mean_power: bool = True
    idle_hosts_are_off: bool = True
    pooled_pdm: bool = True
    pdm_counts_contention: bool = True
    pooled_slatah: bool = True

    @classmethod
    def none(cls) -> Quirks:
        """All switches off: the semantics of the main simulator."""
        return cls(**{field.name: False for field in fields(cls)})


QUIRK_TEXT: dict[str, str] = {
    "drop_zero_demand": "Q1: two consecutive samples of 0 % delete a VM for ever",
    "sla_counts_incoming_full": "Q2: a target is compared with the full demand of VMs still on their way",
    "double_moves": "Q3: a fresh target can be evacuated in the same round, moving a VM twice",
    "memory_ignored": "Q4: memory binds only in the initial placement",
    "stale_power": "Q5: placement cost compares with the power before the round",
    "free_power_on": "Q5: switching a host on costs no idle power",
    "unweighted_regression": "Q6: the regression weights of lr and lrr are never applied",
    "free_edges": "Q7: the first and the last 300 s are free",
    "floor_mips": "Q9: MIPS granted under contention are rounded down",
    "no_underload_threshold": "Q10: every host is a candidate for evacuation, however busy",
    "never_used_counts_as_shutdown": "Q11: a host never used counts as a shutdown",
    "skip_first_sample": "sample 0 is never used, 287 rounds instead of 288",
    "interpolated_demand": "demand is interpolated between samples at each event",
    "mean_power": "energy by the mean of the powers at both ends of an interval",
    "idle_hosts_are_off": "a host whose VMs ask for nothing counts as off",
    "pooled_pdm": "PDM pooled over all VMs instead of the mean over VMs",
    "pdm_counts_contention": "contention of a migrating VM is booked on its migration",
    "pooled_slatah": "SLATAH pooled over all hosts instead of the mean over hosts",
}


def check_quirks(names: Iterable[str]) -> None:
    """Refuse quirks that do not exist.

    Raises:
        ConfigError: Naming those that do.
    """
    for name in names:
        if name not in QUIRK_TEXT:
            raise ConfigError(
                f"scenario.quirks.{name}: no such quirk{hint(name, QUIRK_TEXT)}; "
                f"there are: {', '.join(QUIRK_TEXT)}"
            )
