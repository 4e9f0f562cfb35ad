"""``python -m virtgym.experiments.bench.fuzz KIND``."""

import sys

from .runner import main

if __name__ == "__main__":
    sys.exit(main())
