"""What every planner has to know, once: where VMs will be, what fits, what is allowed, what things cost.

All of it asks the simulator's own functions, so that a new power curve, sub-model or limit reaches planners
by itself. ``Draft``, ``RuleHosts`` and ``AdmissionGuard`` serve planners in Python; those in kernels keep a
memory with the fields that the kernels here name.
"""
