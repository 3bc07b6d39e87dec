"""What watches the engine: logs, traces and metrics, wrapped around it and never needed by it."""

from __future__ import annotations

__distribution__ = "leasehold"
