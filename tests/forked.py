"""A script's process without the seconds in which it imports its libraries.

    python forked.py serve SOCKET MODULE...       import the modules once, then fork for each script
    python forked.py run SOCKET SCRIPT ARG...     as `python SCRIPT ARG...` does

The script runs in a process of its own, with the folder, environment, standard streams and signals
of `run`, whose exit status is the script's. Nothing of the project itself is imported beforehand.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# As the scripts set them before they import NumPy, PyTorch and ultralytics.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ULTRALYTICS_SAFE_LOAD": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_CONFIG_DIR": "/tmp",
    "YOLO_OFFLINE": "true",
}


def serve(address: str, *modules: str) -> None:
    os.environ.update(ENVIRONMENT)
    for module in modules:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads of these modules"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("serving", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return run_forked(connection)
            connection.close()


def run_forked(connection: socket.socket) -> None:
    """Fork once more: the script runs in the child, its parent tells how it ends."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid:
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0), open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request = json.loads(message)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    script = Path(sys.argv[0]).resolve()
    sys.path[0] = str(script.parent)
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = str(script)
    exec(compile(script.read_bytes(), script, "exec"), main.__dict__)


def run(address: str, *command: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address)
        request = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        pid = int(connection.recv(100))
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        status = int(connection.recv(100))
    if status < 0:  # killed by a signal
        with contextlib.suppress(OSError):  # of SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    {"serve": serve, "run": run}[sys.argv[1]](*sys.argv[2:])
