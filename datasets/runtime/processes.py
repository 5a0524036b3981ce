"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends (Linux; elsewhere nothing happens).

    A pool's workers wait on a pipe whose other end their siblings hold too, so without this they would wait forever
    after a SIGKILL of the parent. To be called first in a worker, for example from a pool's initializer.
    """
    if not sys.platform.startswith("linux"):
        return
    started_by = multiprocessing.parent_process()  # known from its own word: it may have ended while we were loading
    parent = started_by.pid if started_by else os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)
