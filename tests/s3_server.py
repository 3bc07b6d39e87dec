"""A server that speaks S3 (moto's), in a process of its own: it is imported by nobody who is tested."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.request import Request, urlopen

_READY = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@contextmanager
def running_s3(bucket: str) -> Iterator[str]:
    """Its endpoint, while it runs; it has one empty bucket."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            endpoint = next((found.group(1) for line in server.stderr if (found := _READY.search(line))), None)
            assert endpoint is not None, "the server has not started"
            # It logs every request, and would wait for somebody to read that.
            Thread(target=server.stderr.read, daemon=True).start()
            urlopen(Request(f"{endpoint}/{bucket}", method="PUT"), timeout=10).close()
            yield endpoint
        finally:
            server.terminate()
            server.wait()
