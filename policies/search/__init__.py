"""Search at decision time: candidates are tried in forks of what is shown, and the best is carried out."""
