"""What `leasehold demo` shows: a small pipeline (`documents`) and the command that runs it on real files (`command`).

It is part of the package so that it is there after `pip install`; examples/documents.py uses the same workflow in a
program of its own.
"""

from __future__ import annotations
