"""`python -m runtime`, which is also the console script `leasehold`."""

from __future__ import annotations

import sys


def main() -> int:
    """Carry out the command line of this process and return its exit code."""
    from runtime.commandline.entry import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
