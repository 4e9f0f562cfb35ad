"""Power of hosts against metered watts: forms of the curve fitted on the past, judged on what follows."""
