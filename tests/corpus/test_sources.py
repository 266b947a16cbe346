"""Files, globs, folders, dataset folders and hub ids (a hub on loopback)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import read_sources
from trace_ray.corpus.sources import corpus_sources, find_files
from trace_ray.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "cases"


def names(pattern: str, part: str = "train") -> list[str]:
    return [place.name for place in find_files([pattern], StorageConfig(), "corpus.paths", part)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.parquet", "sub/c.jsonl.gz", "notes.txt", ".hidden/x.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    return tmp_path


def test_a_folder_gives_its_data_files(folder: Path) -> None:
    assert names(str(folder)) == ["a.parquet", "b.jsonl", "c.jsonl.gz"]


def test_a_glob_and_a_file_of_any_name(folder: Path) -> None:
    assert names(f"{folder}/*.jsonl") == ["b.jsonl"]
    assert names(f"{folder}/notes.txt") == ["notes.txt"]


def test_named_held_out_files_are_the_only_ones_held_out(tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [{"prompt": f"{name} {i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, test = str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")
    for held_out, split in (((test,), "train"), ((), "test")):
        corpus = CorpusConfig(paths=(train,), test_paths=held_out, holdout=0.9)
        sources = corpus_sources(corpus, StorageConfig())
        read = [row for chunk in read_sources(sources[:1], corpus, 0, 1 << 20) for row in chunk.pairs.to_pylist()]
        assert len(read) == 40
        assert sum(row["split"] == split for row in read) >= (40 if split == "train" else 30)


def test_nothing_there_is_a_users_error(folder: Path) -> None:
    for missing in (f"{folder}/none.jsonl", f"{folder}/*.nothing", f"{folder}/none/"):
        with pytest.raises(UserError):
            names(missing)


def test_a_dataset_folder_gives_one_split(tmp_path: Path) -> None:
    for name in ("README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(str(tmp_path)) == ["train-00000-of-00001.parquet"]
    assert names(str(tmp_path), "test") == ["test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (("training/test-0.jsonl", "training/train-0.jsonl"), ["train-0.jsonl"], ["test-0.jsonl"]),
        (("train/a.jsonl", "test/b.jsonl", "c.jsonl"), ["a.jsonl"], ["b.jsonl"]),
        (("a.jsonl", "trainer.jsonl"), ["a.jsonl", "trainer.jsonl"], ["a.jsonl", "trainer.jsonl"]),
        (("train_prefs.jsonl", "validation.jsonl"), ["train_prefs.jsonl"], None),
        (("TRAIN.JSONL", "Test.Jsonl.GZ"), ["TRAIN.JSONL"], ["Test.Jsonl.GZ"]),
        (("pku-train-v2.csv", "pku_test_v2.csv", "pku.dev.csv"), ["pku-train-v2.csv"], ["pku_test_v2.csv"]),
        (("TrainPairs.jsonl", "EvalPairs.jsonl"), ["TrainPairs.jsonl"], ["EvalPairs.jsonl"]),
        (("contest.jsonl", "latest.jsonl"), ["contest.jsonl", "latest.jsonl"], ["contest.jsonl", "latest.jsonl"]),
        (("train_test.jsonl", "train.jsonl"), ["train.jsonl"], ["train_test.jsonl"]),
        (("train.jsonl", "metadata.json", "cache-0a1b.arrow", "config.json"), ["train.jsonl"], None),
    ],
)
@pytest.mark.parametrize("marked", [True, False])
def test_a_split_is_what_files_say(
    tmp_path: Path, files: tuple[str, ...], train: list[str], test: list[str] | None, marked: bool
) -> None:
    for name in (("README.md",) if marked else ()) + files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(str(tmp_path)) == train
    if test is None:  # what is for training is never held out for want of something else
        with pytest.raises(UserError, match="no data file"):
            names(str(tmp_path), "test")
    else:
        assert names(str(tmp_path), "test") == test


def test_a_folder_written_by_datasets_is_read(tmp_path: Path) -> None:
    import datasets

    from trace_ray.corpus.read import Source

    rows = datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(str(tmp_path / "saved"))
    for part, number in (("train", 3), ("test", 1)):
        places = find_files([str(tmp_path / "saved")], StorageConfig(), "corpus.paths", part)
        (chunk,) = read_sources([Source(p, i, "") for i, p in enumerate(places)], CorpusConfig(), 0, 1 << 30)
        assert chunk.pairs.num_rows == number


def test_what_a_map_left_beside_a_saved_dataset_is_not_read(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)
    rows.save_to_disk(str(tmp_path / "saved"))
    loaded = datasets.load_from_disk(str(tmp_path / "saved"))
    loaded.map(lambda row: row | {"chosen": "other"})  # datasets keeps the result there
    (tmp_path / "saved" / "data-00001-of-00002.arrow").write_bytes(b"of an older, larger one")
    assert len(list((tmp_path / "saved").glob("*.arrow"))) == 3
    assert names(str(tmp_path / "saved")) == ["data-00000-of-00001.arrow"]


def sources_of(paths: list[Path], test_paths: list[Path]) -> list[tuple[str, str]]:
    corpus = CorpusConfig(paths=tuple(map(str, paths)), test_paths=tuple(map(str, test_paths)))
    return [(source.place.name, source.split) for source in corpus_sources(corpus, StorageConfig())]


def test_a_training_folder_that_holds_the_test_file_gives_it_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b.jsonl")
    assert sources_of([tmp_path], [tmp_path / "b.jsonl"]) == [("a.jsonl", "train"), ("b.jsonl", "test")]
    assert "b.jsonl, link.jsonl: held out, since corpus.test_paths names the same" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"corpus\.paths: .*: all its files are in corpus\.test_paths as well"):
        sources_of([tmp_path / "a.jsonl"], [tmp_path])


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl", "more.jsonl"):
        (tmp_path / name).write_text("")
    assert sources_of([tmp_path], []) == [("train.jsonl", "")]
    assert "dev.jsonl, more.jsonl, test.jsonl: beside the train split, not read" in capsys.readouterr().err
    assert sources_of([tmp_path], [tmp_path]) == [("train.jsonl", "train"), ("test.jsonl", "test")]
    assert "corpus.paths: dev.jsonl, more.jsonl: beside the train split, not read" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/cases")
def test_the_shared_folder_gives_its_splits() -> None:
    folder = SHARED / "corpora" / "24_plain_folder"
    assert sources_of([folder], []) == [("train.jsonl", "")]
    for test in (folder, folder / "test.jsonl"):
        assert sources_of([folder], [test]) == [("train.jsonl", "train"), ("test.jsonl", "test")]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as listing and downloading a dataset takes."""

    files: ClassVar = {
        "data/train_prefs-0.jsonl": b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n',
        "README.md": b"x",
    }

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/datasets/org/name"):
            siblings = [{"rfilename": name} for name in self.files]
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
            body: object = tree if "/tree/" in path else {"id": "org/name", "sha": "a" * 40, "siblings": siblings}
            self.reply(json.dumps(body).encode(), "application/json", 200)
        elif path.startswith("/datasets/org/name/resolve/"):
            self.reply(self.files[path.split("/", 6)[6]], "text/plain", 200)
        else:
            self.reply(b"{}", "application/json", 404)

    def reply(self, body: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": '"e"', "X-Repo-Commit": "a" * 40}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_hub_id_is_downloaded(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from trace_ray.config import StorageConfig; from trace_ray.corpus.read import Source\n"
        "from trace_ray.corpus.sources import find_files, hub_commits\n"
        "for p in ('org/name', 'org/name@main', 'hf://org/name/data/train_*'):\n"
        "    (f,) = find_files([p], StorageConfig(), 'corpus.paths', 'train'); print(f.read_text(), end='')\n"
        "    assert hub_commits([Source(f, 0, '')]) == {'org/name': 'a' * 40}\n"
        "try: find_files(['org/none'], StorageConfig(), 'corpus.paths', 'train')\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | hub, capture_output=True, text=True, timeout=120, check=False
    )
    server.shutdown()
    assert done.stdout.splitlines() == [Hub.files["data/train_prefs-0.jsonl"].decode().strip()] * 3 + ["UserError"], (
        done.stderr[-2000:]
    )
