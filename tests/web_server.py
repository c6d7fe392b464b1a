"""A real web server on this machine that takes events, and fails when it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgebcnn.worker import POLL_S

Answer = tuple[int, dict[str, str]]


class WebServer:
    """Keeps every array of events that it answered with 2xx, and the headers of every request.

    Attributes:
        answers: What it answers next, before 200; None hangs up without a word, and 0 hangs.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: list[Answer | None] = []
        self.requests: list[tuple[str, dict[str, str], list[dict[str, Any]]]] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.is_over = threading.Event()

    def events(self) -> list[dict[str, Any]]:
        """Every event that it took, in order; repeated ones too."""
        return [event for batch in list(self.batches) for event in batch]


@contextmanager
def web_server(port: int = 0, *, tls: ssl.SSLContext | None = None, idle_s: float | None = None) -> Iterator[WebServer]:
    """Yields a server that is served until the block ends, and closes a connection on which nothing happens."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        timeout = idle_s

        def do_POST(self) -> None:
            batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, dict(self.headers), batch))
            answer = server.answers.pop(0) if server.answers else (200, {})
            if answer is None:
                self.close_connection = True
                return
            status, headers = answer
            if not status:
                server.is_over.wait(30)
                self.close_connection = True
                return
            if 200 <= status < 300:
                server.batches.append(batch)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as http:
        http.daemon_threads = True
        if tls:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        server = WebServer(f"{'https' if tls else 'http'}://127.0.0.1:{http.server_port}/hooks/T0PSECRET")
        thread = threading.Thread(target=http.serve_forever, args=(POLL_S,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            http.shutdown()
            thread.join(5)
