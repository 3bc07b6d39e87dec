"""Adapters that keep everything in this process: for tests, simulation and the kernel by hand.

They refuse what the durable ones refuse, and what they hold is gone with the process.
"""

from adapters.memory.blobs import MemoryBlobStore
from adapters.memory.ids import SeededIds
from adapters.memory.persistence import MemoryJobTransport, MemoryPersistence
from adapters.memory.scheduler import MemoryScheduler

__all__ = ["MemoryBlobStore", "MemoryJobTransport", "MemoryPersistence", "MemoryScheduler", "SeededIds"]
