"""``virtgym/Rescheduling-v0``: migrate a few VMs of a full cluster, one by one."""
