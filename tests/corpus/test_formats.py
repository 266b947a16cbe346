"""Every format in every kind of file, from small files of each native shape."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Chunk, Source, read_sources
from trace_ray.corpus.rows import detect_format
from trace_ray.pairs import pair_id
from trace_ray.storage.location import locate

Row = dict[str, Any]
USER, BOT = "user", "assistant"


def said(*turns: tuple[str, str]) -> list[Row]:
    return [{"role": role, "content": content} for role, content in turns]


TWO_TURNS = [(USER, "Hi"), (BOT, "Hello."), (USER, "Why?")]
FORMATS: dict[str, tuple[str, Row, tuple[list[Row], str, str]]] = {
    "TRL explicit": (
        "preference",
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        (said((USER, "Why?")), "So.", "No."),
    ),
    "TRL explicit conversational": (
        "preference",
        {"prompt": said(*TWO_TURNS), "chosen": said((BOT, "So.")), "rejected": said((BOT, "No."))},
        (said(*TWO_TURNS), "So.", "No."),
    ),
    "TRL implicit": (
        "preference",
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        (said((USER, "The sky is")), " blue.", " black."),
    ),
    "TRL implicit conversational": (
        "preference",
        {"chosen": said(*TWO_TURNS, (BOT, "So.")), "rejected": said(*TWO_TURNS, (BOT, "No."))},
        (said(*TWO_TURNS), "So.", "No."),
    ),
    "HH-RLHF": (
        "hh_rlhf",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: So.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: No.",
        },
        (said(*TWO_TURNS), "So.", "No."),
    ),
    "PKU-SafeRLHF": (
        "pku_saferlhf",
        {
            "prompt": "Why?",
            "response_0": "No.",
            "response_1": "So.",
            "is_response_0_safe": False,
            "is_response_1_safe": True,
            "better_response_id": 0,
            "safer_response_id": 1,
        },
        (said((USER, "Why?")), "So.", "No."),
    ),
    "UltraFeedback binarized": (
        "ultrafeedback",
        {
            "prompt": "Why?",
            "prompt_id": "x",
            "chosen": said((USER, "Why?"), (BOT, "So.")),
            "rejected": said((USER, "Why?"), (BOT, "No.")),
            "messages": said((USER, "Why?"), (BOT, "So.")),
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        (said((USER, "Why?")), "So.", "No."),
    ),
}
KINDS = ("jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.zst", "parquet", "arrow")


def write(rows: list[Row], path: Path) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = pa.Table.from_pylist(rows)
    match path.name.split(".", 1)[1]:
        case "jsonl":
            path.write_bytes(lines)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines))
        case "jsonl.bz2":
            path.write_bytes(bz2.compress(lines))
        case "jsonl.zst":
            with pa.CompressedOutputStream(str(path), "zstd") as stream:
                stream.write(lines)
        case "parquet":
            pq.write_table(table, path)
        case "arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    return path


def read(path: Path, config: CorpusConfig | None = None) -> Chunk:
    source = Source(locate(str(path), StorageConfig()), 0, "")
    chunks = list(read_sources([source], config or CorpusConfig(holdout=0.0), 0, 1 << 20))
    assert len(chunks) == 1
    return chunks[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_from_each_kind_of_file(name: str, kind: str, tmp_path: Path) -> None:
    form, row, (prompt, chosen, rejected) = FORMATS[name]
    path = write([row, row], tmp_path / f"data.{kind}")
    for config in (CorpusConfig(holdout=0.0), CorpusConfig(holdout=0.0, format=form)):
        chunk = read(path, config)
        assert chunk.rejects.num_rows == 0, chunk.rejects.to_pylist()
        found = chunk.pairs.to_pylist()
        assert [(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in found] == [
            (prompt, chosen, rejected)
        ] * 2
        assert [pair["row"] for pair in found] == [0, 1]
        assert found[0]["pair_id"] == pair_id(prompt, chosen, rejected)
    assert count_rows(locate(str(path), StorageConfig())) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_detected(name: str) -> None:
    form, row, _ = FORMATS[name]
    assert detect_format(row) == form


@pytest.mark.parametrize(
    ("safe", "safer", "better", "chosen"),
    [
        ((True, False), 1, 1, "a"),  # one safe: it is chosen whatever the ids say
        ((False, True), 0, 0, "b"),
        ((True, True), 1, 0, "b"),  # both or neither: the safer one
        ((False, False), 0, 1, "a"),
        ((True, False), -1, 0, None),  # no preference label
        ((True, True), None, 0, None),
    ],
)
def test_the_papers_pairing_of_pku(
    safe: tuple[bool, bool], safer: int | None, better: int, chosen: str | None, tmp_path: Path
) -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": better}
    row |= {"is_response_0_safe": safe[0], "is_response_1_safe": safe[1], "safer_response_id": safer}
    chunk = read(write([row], tmp_path / "pku.jsonl"))
    assert [pair["chosen"] for pair in chunk.pairs.to_pylist()] == ([chosen] if chosen else [])
    assert [reject["reason"] for reject in chunk.rejects.to_pylist()] == ([] if chosen else ["no_preference"])


def test_a_rows_own_source_is_kept(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "source": "mine"},
        {"prompt": "p", "chosen": "a", "rejected": "c"},
    ]
    assert read(write(rows, tmp_path / "x.jsonl")).pairs["source"].to_pylist() == ["mine", "x.jsonl"]
