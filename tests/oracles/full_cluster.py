"""A small cluster with every sub-model on, for tests that need all of it."""

from __future__ import annotations

from typing import Any

EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "trace": {"format": "synthetic", "options": {"n_vms": 24, "n_samples": 24, "churn": 0.3}},
    "hosts": [
        {
            **{"name": "old", "count": 3, "cores": 2, "core_mhz": 500, "memory_mib": 5000},
            **{"boot_time_s": 200, "numa_nodes": 2, "cpu_level": "haswell", "io_functions": 1},
        },
        {
            **{"name": "new", "count": 3, "cores": 4, "core_mhz": 700, "memory_mib": 9000},
            **{"boot_time_s": 0, "numa_nodes": 2, "cpu_level": "skylake", "io_functions": 2},
            **{"nic_mbps": 10000},
        },
    ],
    "host_order": "grouped",
    "vm_types": [
        {"name": "web", "vcpus": 1, "vcpu_mhz": 1500, "memory_mib": 1500, "profile": "web"},
        {"name": "database", "vcpus": 2, "vcpu_mhz": 1700, "memory_mib": 2600, "profile": "database"},
        {"name": "appliance", "vcpus": 1, "vcpu_mhz": 1000, "memory_mib": 1000, "profile": "appliance"},
        {"name": "guarded", "vcpus": 1, "vcpu_mhz": 1000, "memory_mib": 1200, "profile": "guarded"},
    ],
    "vm_assignment": "random",
    "profiles": {
        "web": {"dirty_mib_s": [10.0, 20.0]},
        "appliance": {"io": {"mode": "passthrough"}, "cpu": {"limit_mhz": 100.0}},
        "guarded": {
            **{"protected": True, "restart_priority": 5, "cpu": {"reservation_mhz": 300.0}},
            **{"memory": {"reservation_mib": 300.0}, "dirty_mib_s": [5.0, 40.0]},
        },
    },
    "memory": "multiplexed",
    "arrival_cpu_overcommit": 10.0,
    "overhead": {"enabled": True},
    "cpu": {"enabled": True, "co_stop": 0.2},
    "numa": {"enabled": True, "cpu_overcommit": 4.0},
    "io": {"enabled": True},
    "migration": {"mode": "precopy"},
    "precopy": {"max_mbps": 6.0, "on_divergence": "post_copy"},  # slow: copies last for intervals
    "failures": {"enabled": True, "model": "exponential", "mtbf_h": 3.0, "mttr_h": 0.3, "vm_mtbf_h": 10.0},
    "recovery": {"restart": "policy", "spares": [5]},
    "standby": {"enabled": True},
}
"""Six hosts with every kind of limit: two CPU generations, nodes, few passthrough functions, a spare."""
