"""Run a command that gets SIGTERM when the process that started it dies, be it by kill -9.

  python3 harness/tied.py PARENT_PID COMMAND ARG...

By Linux's PR_SET_PDEATHSIG, which outlasts exec; elsewhere the command is run as it is.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:  # it died before the call
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
