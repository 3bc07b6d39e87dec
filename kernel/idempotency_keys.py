"""Which idempotency keys are taken: those that every store can keep and index.

Separate because every command that has a key asks the same, before anything is decided. The function
`leasehold.create_run` of the SQL schema has the same bound.
"""

from __future__ import annotations

from kernel.errors import InvalidCommand

__all__ = ["KEY_BYTES_MAX", "check_idempotency_key"]

KEY_BYTES_MAX = 1000
"""As UTF-8. PostgreSQL keeps rows of at most about 2700 bytes in an index, and the key shares its row with others."""


def check_idempotency_key(key: str | None) -> None:
    """Refuse a key that is blank, too long or no text; None is no key. Raises: InvalidCommand."""
    if key is None:
        return
    if not isinstance(key, str):
        # Callers need not be typed.
        raise InvalidCommand(f"idempotency_key must be text, not {type(key).__name__}.", field="idempotency_key")
    if not key.strip():
        raise InvalidCommand("idempotency_key must not be empty.", field="idempotency_key", hint="Leave it out.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidCommand("idempotency_key is not valid UTF-8 text.", field="idempotency_key") from None
    if "\0" in key:
        raise InvalidCommand("idempotency_key must not contain a NUL character.", field="idempotency_key")
    if size > KEY_BYTES_MAX:
        reason = f"idempotency_key is {size} bytes long as UTF-8, and at most {KEY_BYTES_MAX} are allowed."
        raise InvalidCommand(reason, field="idempotency_key", hint="Use a digest of it, such as its SHA-256.")
