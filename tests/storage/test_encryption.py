"""What is written is encrypted with the key that was asked for, whichever way it goes to S3."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from tests.support.s3 import S3Server
from trace_ray.config import StorageConfig
from trace_ray.storage.location import Location, locate


def head(server: S3Server, place: Location) -> dict[str, str]:
    client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    bucket, _, key = place.path.partition("/")
    return client.head_object(Bucket=bucket, Key=key)  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", ["", "alias/trace-ray"])
def test_every_way_of_writing_asks_for_the_key(
    key: str, s3: StorageConfig, s3_server: S3Server, tmp_path: Path
) -> None:
    place = locate(f"s3://lake/{uuid.uuid4().hex}", replace(s3, kms_key=key))
    (tmp_path / "file").write_bytes(b"weights")
    (place / "bytes").write_bytes(b"small")
    (place / "large").write_bytes(b"x" * (51 << 20))  # in several parts
    (place / "table.parquet").write_parquet(pa.table({"a": [1]}))
    (place / "file").upload(tmp_path / "file")
    with place.fs.open_output_stream((place / "stream").path) as stream:  # Ray Train's way
        stream.write(b"checkpoint")
    place.fs.copy_file((place / "bytes").path, (place / "copy").path)
    for name in ("bytes", "large", "table.parquet", "file", "stream", "copy"):
        told = head(s3_server, place / name)
        assert told.get("ServerSideEncryption") == ("aws:kms" if key else None), name
        assert told.get("SSEKMSKeyId", "").endswith(key), name
    assert (place / "bytes").read_bytes() == b"small"
