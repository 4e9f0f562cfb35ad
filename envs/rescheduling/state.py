"""What B rescheduling games are made of: parameters of S snapshots, and state."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import B1, F8, I4, I8
from ..sim.decisions import Reasons

PLAYING, STOPPED, SPENT, IDLE = 0, 1, 2, 3
"""Status of a game: a move may follow; it was stopped; its moves are spent; none has begun."""

MOVED, CHOSEN, ENDED = 0, -1, -2
"""What an action that was carried out has done, as a code: a VM was moved, one was chosen, the game ends."""

RESCHEDULING_REASONS = Reasons({0: ""})
"""Why an action was refused, by code."""

NO_ACTION = RESCHEDULING_REASONS.add("there is no such action")
NO_VM = RESCHEDULING_REASONS.add("no VM is chosen that could go to a node")
NO_NODE = RESCHEDULING_REASONS.add("the chosen VM needs a node first")
FIXED = RESCHEDULING_REASONS.add("the VM must stay where it is")
NOWHERE = RESCHEDULING_REASONS.add("the VM fits nowhere else")
HERE = RESCHEDULING_REASONS.add("the VM is there already")
FIRST_NODE = RESCHEDULING_REASONS.add("a VM on two nodes is placed by the first one of a host")
FITS_NOT = RESCHEDULING_REASONS.add("the VM does not fit there")
APART = RESCHEDULING_REASONS.add("a VM of its anti-affinity group is on that host")


class ReschedulingParams(NamedTuple):
    """What kernels read and never change; K shapes of VMs, G groups, P points of a power curve.

    A *place* is a node, or for a double VM a host by its first node. Snapshots with fewer VMs, shapes or
    groups than others are filled up with what is never there.
    """

    n_hosts: int  # H
    n_nodes: int  # A = N H
    per_host: int  # N
    n_vms: int  # V
    n_classes: int  # K
    limit: int  # moves of a game
    plenty: int  # from so many places on a VM of a shape can go to one, wherever it and its group are
    size: int  # CPU of the VM that fragments are counted for
    weights: F8  # (terms,)
    peak_w: F8  # (S,) power of all hosts at full load
    node_cpu: I4  # (S, A) thousandths of a core
    node_mem: I4  # (S, A) MiB
    vm_cpu: I4  # (S, V) on each of its nodes
    vm_mem: I4  # (S, V)
    vm_rest: I4  # (S, V) its CPU modulo the size
    vm_double: B1  # (S, V)
    vm_fixed: B1  # (S, V)
    vm_group: I4  # (S, V) -1 = none
    vm_class: I4  # (S, V) its shape
    vm_ms: I8  # (S, V) how long its migration takes
    vm_home: I4  # (S, V) its place at the start
    class_cpu: I4  # (S, K)
    class_mem: I4  # (S, K)
    class_double: B1  # (S, K)
    class_first: I4  # (S, K + 1) where a shape's VMs begin in class_vms
    class_vms: I4  # (S, V) VMs by shape
    group_first: I4  # (S, G + 1)
    group_vms: I4  # (S, grouped VMs)
    host_power: I4  # (S, H) its row of power_w
    power_w: F8  # (kinds, P)


class ReschedulingState(NamedTuple):
    """B games."""

    snapshot: I8  # (B,) which one is played
    free_cpu: I4  # (B, A)
    free_mem: I4  # (B, A)
    vm_node: I4  # (B, V) place of each VM
    host_vms: I4  # (B, H) VMs on a host
    places: I4  # (B, K) places that have room for a VM of a shape
    place_sum: I8  # (B, K) sum of their numbers: the place itself, if there is one
    offer: I8  # (B, K) -1 = no place, -2 = plenty, else the only place: what ``movable`` was written for
    movable: B1  # (B, V) whether a VM can go somewhere
    fragment: I8  # (B,) sum of free CPU that is no whole VM
    spare: I8  # (B,) sum of free CPU
    hosts_used: I8  # (B,)
    load: I8  # (B,) sum of loads, 2**-20
    load_sq: I8  # (B,) sum of their squares, 2**-40
    power_mw: I8  # (B,)
    move_ms: I8  # (B,) sum over the moves made
    terms: F8  # (B, terms)
    objective: F8  # (B,)
    moves: I8  # (B,) made
    chosen: I8  # (B,) VM that is to be placed, -1 = none
    last_vm: I8  # (B,) VM of the last move, -1 = none
    last_from: I8  # (B,) its place before
    status: I8  # (B,) PLAYING, STOPPED or SPENT
