"""Hands a command to the server and waits for its end.

Started by `python -I -S client.py PROGRAM ARGUMENTS`, it needs a few milliseconds where
the program itself would import torch first. The server is named by WARM_SERVER, and who
runs the program by WARM_RUN.
"""

import array
import json
import os
import re
import signal
import socket
import sys

TOOL = re.compile(r"(^| |/)tools/|-m mmssl_ext")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def send(server: str, request: dict, streams: list[int]) -> tuple[socket.socket, int]:
    """Start a command with these standard streams; return who answers, and its pid."""
    data = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    # The length goes with the three standard streams.
    fds = array.array("i", streams)
    connection.sendmsg(
        [len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
    )
    connection.sendall(data)
    return connection, int(answer(connection))


def answer(connection: socket.socket) -> str:
    """The next line that the server says of a command; empty where it has gone."""
    line = b""
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return line.decode()


def main() -> int:
    """Run one command on the server; return its exit code."""
    request = {
        "run": os.environ["WARM_RUN"],
        "program": sys.argv[1],
        "argv": sys.argv[2:],
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "group": os.getpgrp(),
    }
    server = os.environ["WARM_SERVER"]
    if sys.argv[1] in ("mmssl-ext", "mim", "inline") or TOOL.search(
        " ".join(sys.argv[2:])
    ):
        server += ".tools"
    connection, pid = send(server, request, [0, 1, 2])
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    return int(answer(connection) or 1)


if __name__ == "__main__":
    code = main()
    if code < 0:  # ended by a signal
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
