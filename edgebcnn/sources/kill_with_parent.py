"""Ends a program together with the thread that started it, even where that is killed.

`python leash.py PID COMMAND...`, started by the process PID, becomes COMMAND, which the kernel kills when the thread
that started it ends. A function between fork and exec would do it too, and can deadlock where there are threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(starter: str, *command: str) -> None:
    """Becomes the command; ends at once where the starter has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(starter):
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
