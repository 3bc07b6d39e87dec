"""Kinds of databases, and URLs without their passwords."""

from __future__ import annotations

import pytest

from kernel import InvalidCommand
from runtime.database_urls import database_kind, masked_url


@pytest.mark.parametrize(
    "url,kind",
    [
        ("postgresql://h/d", "postgres"),
        ("postgres://u:p@h:5432/d?sslmode=require", "postgres"),
        ("POSTGRESQL://h/d", "postgres"),
        ("postgresql:///d?host=/run/postgresql", "postgres"),
        ("embedded", "embedded"),
        ("memory://", "memory"),
    ],
)
def test_a_known_kind_is_recognised(url: str, kind: str) -> None:
    assert database_kind(url) == kind


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "sqlite:///x.db", "localhost/d", "postgresql", "", "postgresql://h:x/d"]
)
def test_anything_else_is_refused_with_what_is_known(url: str) -> None:
    with pytest.raises(InvalidCommand, match="postgresql://") as refused:
        database_kind(url)

    assert refused.value.field == "database_url"


@pytest.mark.parametrize(
    "url,masked",
    [
        ("postgresql://u:hidden@h:5/d", "postgresql://u:***@h:5/d"),
        ("postgresql://u:hid@den@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=hidden", "postgresql://h/d?user=u&password=***"),
        ("postgresql://h/d?sslmode=require", "postgresql://h/d?sslmode=require"),
        ("postgresql://u:hidden@[::1", "postgresql://u:***@[::1"),
        ("embedded", "embedded"),
        ("postgresql:///leasehold?host=/run/pg", "postgresql:///leasehold?host=/run/pg"),
        ("postgresql:///d?host=/run/pg&password=hidden", "postgresql:///d?host=/run/pg&password=***"),
    ],
)
def test_a_password_is_never_shown(url: str, masked: str) -> None:
    assert masked_url(url) == masked
