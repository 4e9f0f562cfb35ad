"""Engines that run the cells of a command: processes of this machine, joblib, Ray, Slurm."""
