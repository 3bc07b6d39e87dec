"""What remembers: an implementation per port and technology; nothing above names them but the root."""

from __future__ import annotations

__distribution__ = "leasehold"
