"""What to do with an operator's own cluster: plans, sizes, restarts after failures.

Nothing here talks to a platform: exports are read, files are written.
"""
