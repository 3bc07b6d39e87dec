"""Where blobs lie, as a URL says it: a folder, or a bucket below a prefix.

Separate because settings have to refuse a URL that cannot be meant long before anything is stored. It does not know
any store; whether the folder or the bucket is there is not its business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kernel.errors import InvalidCommand

__all__ = ["KNOWN_BLOB_PLACES", "BlobBucket", "BlobFolder", "BlobPlace", "blob_place"]

KNOWN_BLOB_PLACES = 'Use "s3://bucket/prefix" or "file:///folder"; without one, blobs lie in the database.'
"""The way out for whoever named something else."""

PREFIX_BYTES_MAX = 300
"""With the longest key this stays below the 1024 bytes that S3 gives the name of an object."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_OPTIONS = {"endpoint", "region"}


@dataclass(frozen=True, slots=True)
class BlobFolder:
    """A folder that every process sees under this path."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobBucket:
    """A bucket of something that speaks S3, and what all keys in it begin with; None is left to the environment."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None


BlobPlace: TypeAlias = BlobFolder | BlobBucket


def blob_place(url: str) -> BlobPlace:
    """What the URL names.

    Raises: InvalidCommand, for a URL of another kind, or one that cannot be meant; the message shows no credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    match parts.scheme:
        case "s3":
            return _bucket(parts)
        case "file":
            return _folder(parts)
        case scheme:
            what = f'the scheme "{scheme}"' if scheme and "://" in url else "a text that is no URL"
            raise _refused(f"no store of blobs is known for {what}")


def _folder(parts: SplitResult) -> BlobFolder:
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or parts.query or parts.fragment:
        raise _refused("a folder is named by its whole path, with three slashes, as in file:///srv/blobs")
    return BlobFolder(path)


def _bucket(parts: SplitResult) -> BlobBucket:
    if "@" in parts.netloc:
        raise _refused(
            "it must not contain credentials",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role.",
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise _refused(f'"{parts.netloc}" cannot be the name of a bucket')
    prefix = unquote(parts.path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise _refused('the prefix must not have empty, "." or ".." parts')
    if not prefix.isprintable() or len(prefix.encode()) > PREFIX_BYTES_MAX:
        raise _refused(f"the prefix must be printable and have at most {PREFIX_BYTES_MAX} bytes")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown or parts.fragment:
        what = f'"{unknown[0]}"' if unknown else '"#"'
        raise _refused(f"it has {what}", hint="After the prefix it may have ?endpoint=...&region=... and nothing else.")
    endpoint = options.get("endpoint") or None
    if endpoint is not None and not _is_endpoint(endpoint):
        raise _refused("its endpoint must be a URL that begins with https:// or http:// and holds no credentials")
    return BlobBucket(bucket=parts.netloc, prefix=prefix, endpoint=endpoint, region=options.get("region") or None)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def _refused(reason: str, *, hint: str = KNOWN_BLOB_PLACES) -> InvalidCommand:
    return InvalidCommand(f"The URL of the blob store cannot be used: {reason}.", field="blob_url", hint=hint)
