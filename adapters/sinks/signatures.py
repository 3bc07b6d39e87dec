"""How a receiver of a webhook knows that we have sent it, and lately.

The signature covers the time and the body: `t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>" in hex>`. Several
`v1` may stand in one header while a secret is being changed; one that fits is enough. Needs no HTTP client, so that
receivers can use `verify` as it is.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import timedelta

__all__ = ["SIGNATURE_HEADER", "sign", "verify"]

SIGNATURE_HEADER = "Leasehold-Signature"
TOLERANCE = timedelta(minutes=5)


def sign(secret: str, body: bytes, *, at: float | None = None) -> str:
    """The header's value for this body, at this time (seconds since 1970; None: now)."""
    stamp = int(time.time() if at is None else at)
    return f"t={stamp},v1={_digest(secret, stamp, body)}"


def verify(
    secret: str, signature: str, body: bytes, *, tolerance: timedelta = TOLERANCE, now: float | None = None
) -> bool:
    """Whether somebody who knows the secret signed this body, not longer ago (or ahead) than `tolerance`.

    `body` are the bytes as they arrived, before anybody parsed them. Any text may be given as signature.
    """
    parts = [part.strip().partition("=") for part in signature.split(",")]
    stamps = [value for name, _, value in parts if name == "t"]
    if len(stamps) != 1 or not (stamps[0].isascii() and stamps[0].isdigit() and len(stamps[0]) <= 12):
        return False
    stamp = int(stamps[0])
    expected = _digest(secret, stamp, body).encode()
    known = any(hmac.compare_digest(value.encode(), expected) for name, _, value in parts if name == "v1")
    age_s = abs((time.time() if now is None else now) - stamp)
    return known and age_s <= tolerance.total_seconds()


def _digest(secret: str, stamp: int, body: bytes) -> str:
    return hmac.new(secret.encode(), b"%d." % stamp + body, hashlib.sha256).hexdigest()
