"""``virtgym/Placement-v0``: place VM requests one by one."""
