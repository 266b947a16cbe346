"""What storage asks of S3: few requests, no more bytes than needed, no listing where a name is known; who signs them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.proxy import FaultyProxy
from tests.support.s3 import CREDENTIALS, S3Server
from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus import blocks, runs
from trace_ray.corpus.read import Source
from trace_ray.corpus.units import SourceGroup, Unit
from trace_ray.storage import object_store, staging
from trace_ray.storage.location import Location, locate


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


def test_a_piece_costs_a_request_a_run_and_a_block_one_and_nothing_is_listed(
    watched: tuple[FaultyProxy, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, place = watched
    monkeypatch.setattr(runs, "CHUNK_BYTES", 200_000)
    rows = [
        {"prompt": f"p {i}", "chosen": uuid.uuid4().hex * 10, "rejected": uuid.uuid4().hex * 10} for i in range(2000)
    ]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(place / "corpus.jsonl", 0, "")
    read, out = (
        runs.read_group(
            SourceGroup.of(0, [Unit(0)], {0: source}), CorpusConfig(), 4, 400_000, place / "runs", place / "rejects"
        ),
        place / "pieces",
    )
    assert len(read["runs"]) > 2
    verbs(proxy)
    record = blocks.write_piece(1, 4, 8, read["runs"], place / "runs", out)
    assert sorted(verbs(proxy)) == ["GET"] * len(read["runs"]) + ["PUT"] * 2
    files = blocks.BlockFiles(out, 4, [(0, 0)] * 2 + record["bounds"] + [(0, 0)] * 4)
    assert files.read(2).num_rows > 100
    assert verbs(proxy) == ["GET"]


def test_one_column_of_many_is_fetched_without_the_others(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    table = pa.table({"row": list(range(4000)), "text": [uuid.uuid4().hex * 40 for _ in range(4000)]})
    (place / "part.parquet").write_parquet(table)
    verbs(proxy)
    before = proxy.sent
    assert (place / "part.parquet").read_parquet(["row"]).num_rows == 4000
    assert proxy.sent - before < 300_000
    assert len(verbs(proxy)) <= 4


def test_the_default_chain_signs_for_the_region_and_anonymous_signs_nothing(
    watched: tuple[FaultyProxy, Location], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import boto3

    proxy, place = watched
    (place / "public").write_text("x")
    bucket, _, key = (place / "public").path.partition("/")
    owner = boto3.client("s3", endpoint_url=proxy.endpoint, region_name="us-east-1")
    owner.put_object_acl(Bucket=bucket, Key=key, ACL="public-read")

    def signature(**changed: object) -> str:
        storage = replace(StorageConfig(endpoint=proxy.endpoint, region="eu-central-1"), **changed)  # type: ignore[arg-type]
        assert locate(f"{place.uri}/public", storage).read_text() == "x"
        return proxy.signed_by[-1]

    assert f"Credential={CREDENTIALS['AWS_ACCESS_KEY_ID']}/" in signature()
    assert "/eu-central-1/s3/" in signature()
    assert signature(anonymous=True) == ""
    profile = tmp_path / "credentials"
    profile.write_text("[other]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert "Credential=FROMPROFILE/" in signature(connect_timeout_s=9.0)  # another setting: s3fs keeps equal ones


def test_a_large_file_goes_up_in_parts(watched: tuple[FaultyProxy, Location], tmp_path: Path) -> None:
    proxy, place = watched
    file = tmp_path / "weights"
    with file.open("wb") as sink:
        sink.truncate(101 << 20)
    (place / "weights").upload(file)
    assert [line.split()[0] for line in proxy.requests if "uploadId" not in line] == ["POST"]
    assert sum("partNumber=" in line for line in proxy.requests) >= 3


def test_many_that_want_a_model_at_once_download_it_once(watched: tuple[FaultyProxy, Location]) -> None:
    proxy, place = watched
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"1" * 1_000_000)
    verbs(proxy)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(staging.stage, [place] * 4))
    assert len(copies) == 1
    assert sum("model.safetensors" in line and line.startswith("GET") for line in proxy.requests) == 1


def test_waits_grow_and_what_is_final_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    tries = 0

    def fails_at_first() -> str:
        nonlocal tries
        tries += 1
        if tries < 6:
            raise OSError("503 Slow Down")
        return "there"

    assert object_store.patiently(fails_at_first) == "there"
    for i, wait in enumerate(waits):
        assert 0.25 * 2**i <= wait <= 0.5 * 2**i
    assert len(waits) == 5
    with pytest.raises(PermissionError):
        object_store.patiently(lambda: (_ for _ in ()).throw(PermissionError("denied")))
    tries = 0
    with pytest.raises(OSError, match="Slow Down"):
        object_store.patiently(lambda: (_ for _ in ()).throw(OSError("503 Slow Down")))
    assert len(waits) == 10
