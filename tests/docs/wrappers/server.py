"""Forks a process that has torch and the OpenMMLab toolboxes for every command.

Importing them takes longer than most commands of the pages. For Python that a page
shows, mmssl_ext is not among them: what needs it imports it, as in a fresh interpreter.
The tools of this package, which import it themselves, are forked from a second process
that has it, behind SOCKET.tools.

    python -m tests.docs.wrappers.server SOCKET

Both end when their standard input does.
"""

import array
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable

from .programs import run

WARM = (
    *("cv2", "mmcv", "mmengine.runner", "mmengine.config"),
    *("mmpretrain.datasets", "mmpretrain.engine", "mmpretrain.models"),
    *("matplotlib.pyplot", "rich.console", "torchvision"),
    *("sklearn.linear_model", "sklearn.svm", "torch.utils.tensorboard"),
)
TOOLS = (
    *("mmssl_ext.engine.launch", "mmssl_ext.engine.chain_run", "mmssl_ext.models"),
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
        # Then a block that takes too long is killed with all that it started.
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


def serve(path: str) -> dict | None:
    """Fork for each connection until standard input ends; in a fork, its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    print("ready", flush=True)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    ready.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj == 0:
                os.unlink(path)
                return None
            connection, _ = listener.accept()
            if os.fork() == 0:
                ready.close()
                listener.close()
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


if __name__ == "__main__":
    # Blocks see what an interpreter of their own would: no tests, no repository.
    sys.path.remove(os.getcwd())
    warm_up(WARM)
    place = sys.argv[1]
    if os.fork() == 0:
        warm_up(TOOLS)
        place += ".tools"
    if (command := serve(place)) is not None:
        sys.exit(run(command["program"], command["argv"]))
