"""What storage asks of S3: few requests, no more bytes than needed, no listing where a name is known."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.support.proxy import FaultyProxy
from tests.support.s3 import S3Server
from trace_ray.config import StorageConfig
from trace_ray.storage import Location, locate


@pytest.fixture
def watched(s3: StorageConfig, s3_server: S3Server) -> Iterator[tuple[FaultyProxy, Location]]:
    with FaultyProxy(("127.0.0.1", s3_server.port), {}) as proxy:
        yield proxy, locate(f"s3://lake/{uuid.uuid4().hex}", StorageConfig(endpoint=proxy.endpoint, region="us-east-1"))


def verbs(proxy: FaultyProxy) -> list[str]:
    """Returns the requests since the last call: PUT, GET, HEAD, or LIST."""
    told = ["LIST" if "list-type=2" in line else line.split()[0] for line in proxy.requests]
    proxy.requests.clear()
    return told


def test_one_request_for_one_object(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    (place / "manifest.json").write_text("{}")
    assert verbs(proxy) == ["PUT"]
    (place / "manifest.json").read_text()
    assert verbs(proxy) == ["GET"]
    assert (place / "manifest.json").exists()
    assert verbs(proxy) == ["HEAD"]
    assert not (place / "_DONE").exists()
    assert verbs(proxy) == ["HEAD", "LIST"]


def test_a_folder_is_listed_without_what_is_below_it(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    for i in range(20):
        (place / f"deep-{i}" / "part.parquet").write_text("x")
    (place / "part.parquet").write_text("x")
    verbs(proxy)
    assert [file.name for file in place.files()] == ["part.parquet"]
    assert verbs(proxy) == ["LIST"]


def test_a_batch_of_an_arrow_file_is_fetched_without_the_others(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"text": [uuid.uuid4().hex * 40 for _ in range(400)]})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        for _ in range(30):
            writer.write_batch(batch)
    run = place / "run.arrow"
    run.write_bytes(sink.getvalue().to_pybytes())
    verbs(proxy)
    before = proxy.sent
    with run.fs.open_input_file(run.path) as file, pa.ipc.open_file(file) as reader:
        assert reader.get_batch(7).equals(batch)
    assert proxy.sent - before < 3 * batch.nbytes
    assert verbs(proxy)[0] == "HEAD"


def test_one_column_of_many_is_fetched_without_the_others(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    table = pa.table({"row": list(range(4000)), "text": [uuid.uuid4().hex * 40 for _ in range(4000)]})
    (place / "part.parquet").write_parquet(table)
    verbs(proxy)
    before = proxy.sent
    assert (place / "part.parquet").read_parquet(["row"]).num_rows == 4000
    assert proxy.sent - before < 300_000
    assert len(verbs(proxy)) <= 4
