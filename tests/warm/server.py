"""Forks a process that has torch and the OpenMMLab toolboxes for every command.

    python -m tests.warm.server SOCKET WATCHED

Two servers are started. Behind SOCKET, mmssl_ext is not among what was imported: what
needs it imports it, as in a fresh interpreter. Behind SOCKET.tools it is, for the tools
of this package. A request names the module whose function ``run(program, argv)`` runs
the command; that of :mod:`.interpreter` is Python itself.

Both end with the process WATCHED, the test run.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

from tests import faster

WARM = (
    *("cv2", "mmcv", "mmengine.runner", "mmengine.config"),
    *("mmpretrain.datasets", "mmpretrain.engine", "mmpretrain.models"),
    *("matplotlib.pyplot", "rich.console", "torchvision"),
    *("sklearn.linear_model", "sklearn.svm", "torch.utils.tensorboard"),
)
TOOLS = (
    *("mmssl_ext.run.launch", "mmssl_ext.chain.run", "mmssl_ext.models"),
    *("mmssl_ext.datasets", "mmssl_ext.preprocessing", "mmssl_ext.evaluation"),
    *("mmssl_ext.visualization", "mmssl_ext.transfer"),
    *("mmssl_ext.transfer.detection", "mmssl_ext.transfer.segmentation"),
)


def warm_up(names: Iterable[str]) -> None:
    """Import what most commands need; what is not installed is left out."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """One request, and its standard streams."""
    fds = array.array("i")
    space = socket.CMSG_LEN(3 * fds.itemsize)
    length, ancillary, _, _ = connection.recvmsg(8, space)
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(length, "big"))), list(fds)


def attend(connection: socket.socket) -> dict | None:
    """Start the command of a connection and say how it ended; there, its request."""
    request, streams = receive(connection)
    pid = os.fork()
    if pid:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        return None
    connection.close()
    try:
        # Then a command that takes too long is killed with all that it started.
        os.setpgid(0, request["group"])
    except OSError:
        os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request


def serve(path: str, watched: int) -> dict | None:
    """Fork for each connection until the test run ends; in a fork, its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    print("ready", flush=True)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    ready.register(watched, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj == watched:
                os.unlink(path)
                return None
            connection, _ = listener.accept()
            if os.fork() == 0:
                ready.close()
                listener.close()
                os.close(watched)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if (request := attend(connection)) is not None:
                    return request
                os._exit(0)
            connection.close()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def end(program: str, argv: list[str], run: Callable) -> None:
    """Run a command and end as an interpreter ends, but leave the modules alone.

    Taking down torch and all else costs a fork two seconds, as every page is copied.
    """
    code: object = 1
    try:
        code = run(program, argv)
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    place, watched_pid = sys.argv[1:]
    # Commands see what an interpreter of their own would: no tests, no repository.
    sys.path.remove(os.getcwd())
    watched = os.pidfd_open(int(watched_pid))
    warm_up(WARM)
    faster.warm_up()
    if os.fork() == 0:
        warm_up(TOOLS)
        place += ".tools"
    gc.collect()
    gc.freeze()  # or the first collection of every fork would copy all pages
    if (command := serve(place, watched)) is not None:
        run = importlib.import_module(command["run"]).run
        end(command["program"], command["argv"], run)
