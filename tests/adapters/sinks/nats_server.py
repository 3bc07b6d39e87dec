"""A NATS server of our own for the tests of JetStream: Debian's package `nats-server`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Where it is installed, or where `make setup` has put one (.ci/nats-server).
_PLACES = ["/usr/sbin", "/usr/local/bin", "/usr/bin", "/opt/homebrew/bin", f"{sys.prefix}/nats/usr/sbin"]
SERVER = shutil.which("nats-server") or shutil.which("nats-server", path=":".join(_PLACES))
START_S = 10.0


class NatsServer:
    """May be stopped and started again; what it has stored stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert SERVER is not None
        words = [
            SERVER,
            "--jetstream",
            "--addr",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--store_dir",
            str(self._folder),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the NATS server does not start"
            time.sleep(0.01)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
