"""``virtgym/Cluster-v0``: operate a cluster, interval by interval."""
