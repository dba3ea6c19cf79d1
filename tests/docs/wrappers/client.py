"""A program of a block: hands its command to the server and waits for the end.

Started by `python -I -S client.py PROGRAM ARGUMENTS`, so it needs a few milliseconds
where the program itself would import torch first.
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


def main() -> int:
    """Run one command on the server; return its exit code."""
    request = {
        "program": sys.argv[1],
        "argv": sys.argv[2:],
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "group": os.getpgrp(),
    }
    data = json.dumps(request).encode()
    server = os.environ["DOCS_SERVER"]
    if sys.argv[1] in ("mmssl-ext", "mim", "inline") or TOOL.search(
        " ".join(sys.argv[2:])
    ):
        server += ".tools"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        # The length goes with the three standard streams.
        streams = array.array("i", [0, 1, 2])
        connection.sendmsg(
            [len(data).to_bytes(8, "big")],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)],
        )
        connection.sendall(data)
        answers = connection.makefile()
        pid = int(answers.readline())
        for number in SIGNALS:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        return int(answers.readline() or 1)


if __name__ == "__main__":
    code = main()
    if code < 0:  # ended by a signal
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
