"""What every planner has to know, once: where VMs will be, what fits, what is allowed, what things cost.

All of it asks the simulator's own functions, so that a new power curve, sub-model or limit reaches planners
by itself. ``Draft``, ``RuleHosts`` and ``AdmissionGuard`` serve planners in Python; those in kernels keep a
memory with the fields that the kernels here name.
"""

from __future__ import annotations

from .draft import Draft
from .guard import AdmissionGuard
from .ledger import MoveLedger
from .memory import PlanMemory, allocate_memory
from .moves import copy_cost, move_energies, move_energy_j
from .plans import legal_part, merge_plans, without_refused
from .positions import group_by_home, home_of, homes_of
from .power import boot_energy_j, host_watts, idle_watts, power_tables
from .room import begin_room, hold_room, may_come, may_open
from .rule_hosts import NOT_FIRST, RuleHosts, move_together

__all__ = [
    "NOT_FIRST",
    "AdmissionGuard",
    "Draft",
    "MoveLedger",
    "PlanMemory",
    "RuleHosts",
    "allocate_memory",
    "begin_room",
    "boot_energy_j",
    "copy_cost",
    "group_by_home",
    "hold_room",
    "home_of",
    "homes_of",
    "host_watts",
    "idle_watts",
    "legal_part",
    "may_come",
    "may_open",
    "merge_plans",
    "move_energies",
    "move_energy_j",
    "move_together",
    "power_tables",
    "without_refused",
]
