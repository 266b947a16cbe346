"""Everything that storage does, over a way to S3 that throttles, resets, cuts answers short and hangs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.proxy import FAULTS, FaultyProxy
from tests.support.s3 import S3Server
from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Source, read_sources
from trace_ray.errors import UserError
from trace_ray.runs.lock import LOCK, driver_lock
from trace_ray.storage.location import Location, locate, upload_folder
from trace_ray.storage.staging import download_folder

Reached = tuple[FaultyProxy, StorageConfig]
EACH = [pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS]


@pytest.fixture(params=[*EACH, "all"])
def faulty(request: pytest.FixtureRequest, s3: StorageConfig, s3_server: S3Server) -> Iterator[Reached]:
    share = dict.fromkeys(FAULTS, 0.04) if request.param == "all" else {request.param: 0.2}
    if request.param == "hang":
        share = {"hang": 0.05}
    with FaultyProxy(("127.0.0.1", s3_server.port), share, hang_seconds=2.0) as proxy:
        yield proxy, StorageConfig(endpoint=proxy.endpoint, region="us-east-1", read_timeout_s=1.0)


@pytest.mark.timeout(180)
def test_what_is_written_is_what_is_read(faulty: Reached, tmp_path: Path) -> None:
    proxy, storage = faulty
    place = locate(f"s3://lake/{uuid.uuid4().hex}", storage)
    table = pa.table({"row": list(range(2000)), "text": [f"text {i}" for i in range(2000)]})
    for i in range(6):
        (place / f"part-{i}.parquet").write_parquet(table.slice(i * 300, 300))
    parts = place.files(".parquet")
    assert [part.name for part in parts] == [f"part-{i}.parquet" for i in range(6)]
    back = pa.concat_tables([part.read_parquet() for part in parts])
    assert back.equals(pa.concat_tables([table.slice(i * 300, 300) for i in range(6)]))
    rows = [row for part in parts for row in part.read_parquet(["row"])["row"].to_pylist()]
    assert rows == list(range(1800))

    weights = bytes(range(256)) * (1 << 17)

    def write(folder: str) -> None:
        Path(folder, "config.json").write_text("{}")
        Path(folder, "model.safetensors").write_bytes(weights)

    upload_folder(write, place / "model")
    with download_folder(place / "model") as copy:
        assert Path(copy, "model.safetensors").read_bytes() == weights
    assert set(proxy.seen) - {"passed"}, "the proxy did its part"


@pytest.mark.timeout(180)
def test_a_corpus_streams_through_whole(faulty: Reached) -> None:
    _, storage = faulty
    place = locate(f"s3://lake/{uuid.uuid4().hex}.jsonl", storage)
    pairs = [{"prompt": f"p {i}", "chosen": "yes " * 20, "rejected": "no " * 20} for i in range(3000)]
    place.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert count_rows(place) == 3000
    chunks = list(read_sources([Source(place, 0, "train")], CorpusConfig(), 0, 50_000))
    assert len(chunks) > 3
    assert pa.concat_tables([chunk.pairs for chunk in chunks])["row"].to_pylist() == list(range(3000))
    assert all(chunk.rejects.num_rows == 0 for chunk in chunks)


@pytest.mark.timeout(180)
def test_one_driver_at_a_time_all_the_same(faulty: Reached) -> None:
    place = locate(f"s3://lake/{uuid.uuid4().hex}", faulty[1])
    with driver_lock(place, 0.5), pytest.raises(UserError, match="is at work on this run"), driver_lock(place, 0.5):
        pass
    assert not (place / LOCK).exists()


@pytest.mark.timeout(180)
def test_an_endpoint_that_never_recovers_is_one_line(s3: StorageConfig, s3_server: S3Server) -> None:
    from trace_ray.pipeline import run_folder

    with FaultyProxy(("127.0.0.1", s3_server.port), {"slow_down": 1.0}) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, region="us-east-1", max_attempts=2)
        with pytest.raises(UserError, match="S3 does not answer") as caught:
            run_folder("s3://lake/run", storage)
    assert "\n" not in str(caught.value)


def test_a_part_cut_short_is_named(tmp_path: Path) -> None:
    place: Location = locate(str(tmp_path / "part.parquet"), StorageConfig())
    place.write_parquet(pa.table({"row": [1, 2, 3]}))
    Path(place.path).write_bytes(place.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part\.parquet.*damaged"):
        place.read_parquet()
