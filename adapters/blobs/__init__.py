"""Blob stores that need no database."""

from adapters.blobs.filesystem import FilesystemBlobStore

__all__ = ["FilesystemBlobStore"]
