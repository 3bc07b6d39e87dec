"""What can be told from a database URL without opening it: its kind, and how to show it to people.

Separate because everybody who names a database in a message needs it, and none of them may print a password. It does
not know any driver; whether the server behind a URL answers is not its business.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from kernel.errors import InvalidCommand

__all__ = ["EMBEDDED", "KNOWN_KINDS", "MEMORY", "DatabaseKind", "database_kind", "masked_url"]

DatabaseKind: TypeAlias = Literal["postgres", "embedded", "memory"]

EMBEDDED = "embedded"
MEMORY = "memory://"
KNOWN_KINDS = 'Use "postgresql://user@host:5432/database", or "embedded" for a private one in this directory.'
"""The way out for whoever named another one."""

_POSTGRES_SCHEMES = ("postgresql", "postgres")
_SECRET_PARAMETERS = {"password", "sslpassword", "passfile"}
_HIDDEN = "***"


def database_kind(url: str) -> DatabaseKind:
    """Which kind of database a URL names.

    Raises: InvalidCommand, listing the kinds, for anything else; the message holds no password.
    """
    if url == EMBEDDED:
        return "embedded"
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() in _POSTGRES_SCHEMES:
        try:
            _ = urlsplit(url).port
        except ValueError as error:
            reason = f'The database URL "{masked_url(url)}" cannot be read: {error}.'
            raise InvalidCommand(reason, field="database_url", hint=KNOWN_KINDS) from None
        return "postgres"
    if separator and scheme.lower() == "memory":
        return "memory"
    what = f'the scheme "{scheme}"' if separator else f'"{masked_url(url)}"'
    raise InvalidCommand(f"No database is known for {what}.", field="database_url", hint=KNOWN_KINDS)


def masked_url(url: str) -> str:
    """The URL with every password in it replaced by three stars; what cannot be parsed is masked by its looks."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"(://[^:/@]*:)[^@]*@", rf"\1{_HIDDEN}@", url)
    netloc = re.sub(r"^([^:@]*):.*@", rf"\1:{_HIDDEN}@", parts.netloc)
    query = parts.query
    if any(name.lower() in _SECRET_PARAMETERS for name, _ in parse_qsl(query, keep_blank_values=True)):
        shown = [
            (name, _HIDDEN if name.lower() in _SECRET_PARAMETERS else value)
            for name, value in parse_qsl(query, keep_blank_values=True)
        ]
        query = urlencode(shown, safe="*/")
    if not parts.scheme:
        return url
    # Put together by hand, because an empty host (a socket) needs its two slashes too.
    slashes = "//" if "://" in url else ""
    tail = f"{'?' if query else ''}{query}{'#' if parts.fragment else ''}{parts.fragment}"
    return f"{parts.scheme}:{slashes}{netloc}{parts.path}{tail}"
