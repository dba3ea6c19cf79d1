"""A web server of files, which answers as the servers of weights do."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``: path to (content, headers).

    Attributes:
        asked: Paths of all requests.
        sent: Of those with a body.
        knows: Whether If-None-Match is answered by 304.
        cut: Bytes after which a body ends too early.
        gate: Set when bodies may be sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, tuple[bytes, dict]] = {}
        self.asked: list[str] = []
        self.sent: list[str] = []
        self.knows, self.cut, self.gate = True, None, threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, content: bytes, name: str = "/x.pth", **headers: str) -> str:
        """Serve a file from now on, ``ETag`` and the like its headers; its address."""
        self.files[name] = content, {k.replace("_", "-"): v for k, v in headers.items()}
        return self.url + name


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path)
        if self.path not in server.files:
            self.send_error(404)
            return
        content, headers = server.files[self.path]
        asked = self.headers.get("If-None-Match")
        if server.knows and asked and asked == headers.get("ETag"):
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        server.gate.wait(10)
        server.sent.append(self.path)
        self.wfile.write(content[: server.cut])

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server while this lasts."""
    web = Server()
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
