"""`python -m runtime`, which is also the console script `leasehold`."""

from __future__ import annotations

import sys

from runtime._interrupts import end_quietly_when_interrupted


def main() -> int:
    """Carry out the command line of this process and return its exit code, with which the process is to end."""
    try:
        from runtime.commandline.entry import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        # Between two of our own handlers: before the first of them, or just after the last.
        return 130
    finally:
        end_quietly_when_interrupted()


if __name__ == "__main__":
    sys.exit(main())
