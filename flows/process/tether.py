"""``python tether.py PARENT GRACE COMMAND ...``: run COMMAND, and end its whole process group should PARENT die.

Stands between a flow and a command of ours, because a flow that is killed outright can end nothing itself. It leads the
command's process group: once its parent is gone it sends the group SIGTERM, gives it GRACE seconds to save, then
SIGKILL. Where the parent had sent SIGTERM itself before it died, that began the time. ``tether.py PARENT GRACE --end
PID`` does the same for one process that somebody else has started.

A program of its own, because Python code between fork and exec is not safe in a process with threads, which Prefect's
always has; it imports next to nothing and starts in 10 ms. Linux only; elsewhere the command simply runs, and only an
orderly end of the parent stops it.
"""

import contextlib
import os
import signal
import sys
import time

AWAKE = {signal.SIGCHLD, signal.SIGTERM}
POLL_SECONDS = 0.5


def main() -> None:
    """Run the command to its end, or to its parent's."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if not sys.platform.startswith("linux"):
        os.execvp(command[0], command)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAKE)  # taken by sigtimedwait: nothing but SIGKILL ends the tether early
    if command[0] == "--end":
        end_with_parent(parent, grace, int(command[1]))
    else:
        exit_like(run(parent, grace, command))


def run(parent: int, grace: float, command: list[str]) -> int:
    """The command's wait status; its group is ended with the parent."""
    child = os.posix_spawnp(command[0], command, os.environ, setsigmask=[])
    deadline: float | None = None
    orphaned = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not orphaned and os.getppid() != parent:
            orphaned = True
            if deadline is None:
                os.killpg(0, signal.SIGTERM)
                deadline = time.monotonic() + grace
        if orphaned and (ended or deadline is None or time.monotonic() > deadline):
            time.sleep(POLL_SECONDS if ended else 0)  # for what the command leaves behind
            os.killpg(0, signal.SIGKILL)  # the tether too
        if ended:
            return status
        woken = signal.sigtimedwait(AWAKE, POLL_SECONDS)
        if woken is not None and woken.si_signo == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + grace  # the parent ends the group, and may die while it waits


def exit_like(status: int) -> None:
    """End as the command did, by the same signal where it was one."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def end_with_parent(parent: int, grace: float, process: int) -> None:
    """Wait for the end of the parent, then end `process`; nothing more if that ends first."""
    with contextlib.suppress(ProcessLookupError):
        while os.getppid() == parent:
            os.kill(process, 0)
            signal.sigtimedwait({signal.SIGCHLD}, POLL_SECONDS)
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(POLL_SECONDS)
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
