"""``python -m virtgym``: the command line; what else virtgym has lies in the folders of the repository."""

import sys

from virtgym.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
