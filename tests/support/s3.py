"""A real S3-speaking server on loopback, as a process of its own, and the settings that reach it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.ports import free_port
from trace_ray.config import StorageConfig

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-9f31",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""moto accepts any; tests look for them where no credential may be."""


class S3Server:
    """moto behind HTTP; its objects live as long as the process."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).read()
            except OSError:
                time.sleep(0.1)
            else:
                return self
        raise TimeoutError("moto does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def make_bucket(self, name: str) -> None:
        import boto3

        boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1"
        ).create_bucket(Bucket=name)


def set_credentials(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Gives the default chain exactly the planted credentials, and this node an empty cache."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (CREDENTIALS | {"TRACE_RAY_CACHE": str(cache)}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StorageConfig:
    """Settings that reach a server with a bucket ``lake``."""
    set_credentials(monkeypatch, tmp_path / "cache")
    s3_server.make_bucket("lake")
    return StorageConfig(endpoint=s3_server.endpoint, region="us-east-1", max_attempts=2)
