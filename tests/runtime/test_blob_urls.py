"""Which URLs name a place for blobs, and what is said to whoever wrote another."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime import Settings
from runtime.blob_urls import BlobBucket, BlobFolder, blob_place
from runtime.config import load_settings


@pytest.mark.parametrize(
    "url,place",
    [
        ("file:///srv/blobs", BlobFolder(Path("/srv/blobs"))),
        ("file://localhost/srv/large%20ones", BlobFolder(Path("/srv/large ones"))),
        ("s3://bucket", BlobBucket(bucket="bucket", prefix="")),
        ("s3://my.bucket-1/runs/of%20us/", BlobBucket(bucket="my.bucket-1", prefix="runs/of us")),
        (
            "s3://bucket/p?endpoint=http://127.0.0.1:9000&region=eu-west-1",
            BlobBucket(bucket="bucket", prefix="p", endpoint="http://127.0.0.1:9000", region="eu-west-1"),
        ),
    ],
)
def test_a_url_names_a_folder_or_a_bucket(url: str, place: object) -> None:
    assert blob_place(url) == place
    assert Settings(blob_url=f" {url} ").blob_url == url


@pytest.mark.parametrize(
    "url,said",
    [
        ("/srv/blobs", "no URL"),
        ("gs://bucket", '"gs"'),
        ("http://[", "no URL"),
        ("file://srv/blobs", "three slashes"),
        ("file:blobs", "three slashes"),
        ("file:///srv?x=1", "three slashes"),
        ("s3:///prefix", "name of a bucket"),
        ("s3://My_Bucket/p", "name of a bucket"),
        ("s3://bucket/a//b", "parts"),
        ("s3://bucket/a/../b", "parts"),
        ("s3://bucket/a%00b", "printable"),
        ("s3://bucket/" + "x" * 301, "at most 300 bytes"),
        ("s3://bucket/p?key=1", '"key"'),
        ("s3://bucket/p#x", '"#"'),
        ("s3://bucket/p?endpoint=127.0.0.1:9000", "begins with https://"),
        ("s3://bucket/p?endpoint=http://a:hidden@h:9000", "holds no credentials"),
    ],
)
def test_any_other_url_is_refused_with_the_reason(url: str, said: str) -> None:
    with pytest.raises(InvalidCommand, match=said) as refused:
        load_settings(environ={"LEASEHOLD_BLOB_URL": url})

    assert refused.value.field == "blob_url"
    assert "LEASEHOLD_BLOB_URL" in str(refused.value)
    assert refused.value.hint


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidCommand, match="AWS_SECRET_ACCESS_KEY") as refused:
        blob_place("s3://somebody:hidden@bucket/p")

    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("value", ["", 3, Path("/srv")])
def test_a_place_for_blobs_is_a_text(value: object) -> None:
    with pytest.raises(InvalidCommand, match="URL of a blob store"):
        load_settings(environ={}, blob_url=value)
