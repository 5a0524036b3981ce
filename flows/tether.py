"""``python tether.py PARENT COMMAND ...``: become COMMAND, and get SIGTERM should the parent die.

A program of its own, because Python code between fork and exec is not safe in a process with threads, which Prefect's
always has. Linux only; elsewhere the command simply runs, and only an orderly end of the parent stops it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec


def main() -> None:
    """Ask the kernel for the signal, then turn into the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
