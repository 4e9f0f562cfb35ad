"""What kernels count, add up and know of the time: the records of ``ClusterState``.

Integrals use one scheme everywhere: at the end of a segment every rate is multiplied by the whole segment's
length; an event that changed a rate ``elapsed`` seconds into the segment has already added
``(old - new) * elapsed``. The sum is the exact integral of a piecewise constant rate, and a segment without
events costs one dense pass.
"""

from __future__ import annotations

from ...jit.records import Place, Record

FRESH, PIECES_FRESH = 1, 2
"""Values of ``Counters.fresh``: all at once; the same, and some hosts alone since then: the network as a
whole may look different to a bit."""


class Clock(Record):
    """Times, s."""

    now_s = Place("now")
    event_s = Place("time of the event under way")
    next_copy_s = Place("next end of a copy's phase")


class Counters(Record):
    """Counts, int32."""

    arrived = Place("VMs that have arrived")
    queued = Place("events in the queue")
    sample = Place("current trace sample")
    pending = Place("VMs waiting for a host")
    loss = Place("non-zero if some VM may get less than it demands")
    moving = Place("copies under way")
    on = Place("hosts that are on")
    short = Place("non-zero if some host may be short of CPU")
    down = Place("VMs whose downtime runs")
    fault = Place("faults that have happened")
    balanced = Place("trace sample at which NUMA nodes were last levelled, plus one")
    next_copy = Place("VM of the copy whose phase ends next, -1 = none")
    left = Place("VMs that have left")
    samples = Place("periods of telemetry that have ended")
    mixed = Place("1: some rate of a VM has changed in this period of telemetry")
    noise = Place("seed of noise and gaps of telemetry")
    judged = Place("arrived VMs of which it is known whether the policy placed them at its first chance")
    fresh = Place("whether the rates of all hosts were worked out at this instant: 0, FRESH or PIECES_FRESH")


class Rates(Record):
    """What a host adds to the totals of the same names in a second."""

    ready = Place("vCPUs ready and not scheduled")
    vcpus = Place("vCPUs of running VMs")
    limited = Place("demand beyond the VMs' limits, MHz")
    capped = Place("demand beyond what vCPUs can do on their hosts, MHz")
    co_stop = Place("allocated and lost to co-scheduling, MHz")
    overhead = Place("CPU that hypervisors add, MHz")
    io_cpu = Place("CPU that interrupts add, MHz")
    numa_loss = Place("work lost to remote memory, MHz")
    memory_loss = Place("work lost to memory tiers, MHz")
    mirror_loss = Place("work lost to mirroring, MHz")
    shared = Place("memory shared, MiB")
    ballooned = Place("memory in balloons, MiB")
    compressed = Place("memory saved by compression, MiB")
    swapped = Place("memory swapped by hosts, MiB")
    blocked = Place("memory never allocated, MiB")
    remote = Place("remote share of accesses, weighted by CPU allocated, MHz")
    alloc = Place("CPU allocated to VMs, MHz")
    net_dropped = Place("traffic that NICs did not let through, Mbit/s")
    latency = Place("latency times rate of packets and requests")
    io_rate = Place("packets and disk requests, 1/s")
    w_contention = Place("weighted demand that shortage of CPU leaves unserved, MHz")
    w_limit = Place("the same that limits leave unserved, MHz")
    w_capped = Place("the same that vCPUs cannot do on their hosts, MHz")
    w_co_stop = Place("the same that co-scheduling costs, MHz")
    w_numa = Place("the same that remote memory costs, MHz")
    w_memory = Place("the same that memory tiers cost, MHz")
    w_mirror = Place("the same that mirroring costs, MHz")
    w_latency = Place("weighted relative excess of VMs' I/O latency over their targets")


class Totals(Rates):
    """Running totals: the integrals of all hosts' rates over time, and the rest."""

    energy_j = Place("energy of the hosts, J")
    requested = Place("demand, MHz s")
    missed = Place("demand that was not served, MHz s")
    mig_lost = Place("the part of it that migrations cost, MHz s")
    mig_started = Place("migrations that began")
    mig_done = Place("migrations that ended well")
    mig_mib = Place("data sent by migrations, MiB")
    boots = Place("hosts switched on")
    shutdowns = Place("hosts switched off")
    arrivals = Place("VMs that came")
    departures = Place("VMs that left")
    failed_placements = Place("arrivals that found no host")
    thrash = Place("VMs that went back to the host that they came from")
    on_s = Place("hosts that are on, host s")
    active_s = Place("hosts that are on with load, host s")
    sat_s = Place("hosts short of CPU, host s")
    down_s = Place("VMs without a host, VM s")
    imb_cpu_s = Place("standard deviation of CPU load over hosts that are on, s")
    imb_mem_s = Place("standard deviation of memory load over the same, s")
    time_s = Place("time, s")
    illegal = Place("refused orders")
    mig_aborted = Place("migrations that were broken off")
    mig_stop_s = Place("VMs stopped by a migration, VM s")
    mig_energy_j = Place("estimate of Liu et al. 2011, beside the hosts' energy, J")
    restarts = Place("VMs started again after a failure")
    host_failures = Place("failures of hosts")
    vm_crashes = Place("crashes of VMs")
    takeovers = Place("secondaries that took over")
    profile_moves = Place("identities of failed hosts moved to spares")
    carbon_g = Place("carbon, g")
    fragment_s = Place("fragment rate, s")
    numa_moves = Place("VMs moved to another NUMA node")
    down_missed = Place("the part of what was not served that VMs missed while down, MHz s")
    w_requested = Place("weighted demand, MHz s")
    w_missed = Place("weighted demand that was not served, MHz s")
    w_migration = Place("the part of it that migrations cost, MHz s")
    w_down = Place("the part of it that VMs missed while down, MHz s")
    w_down_s = Place("weighted time of VMs that had arrived and did not run, s")
    w_interruptions = Place("weighted failures of running VMs")
    unguarded_s = Place("time in which the failover guarantee failed, s")
    guarantee_lost = Place("times that an event, such as a failure, ended the guarantee")
    guarantee_broken = Place("times that orders did")
