"""Every command in the documents that asks for no GPU and no cluster is run, as it stands and in the documents' order.

What would take an hour gets smaller settings at its end (SMALLER): nothing else differs. The default suite holds the account:
each command is run here, runs elsewhere for a reason that is named, or says that it needs a GPU or a cluster.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, ROOT, Command, commands
from tests.support.s3 import CREDENTIALS, S3Server
from trace_ray.config import StorageConfig
from trace_ray.storage.location import locate

ELSEWHERE = {
    "make test": "what .ci/run runs",
    "make check": "a part of make test",
    "make test-slow": "runs this file",
    "make faults": "tests/fault",
    "make jobs": "tests/jobs",
    "make docs": "a part of make test",
    "make reference": "tests/config holds the files to the code",
    "make wheel": "test_packaging.py builds and installs one",
    "make bench": "an hour on a quiet machine",
    "make audit": "needs a database of vulnerabilities",
    "make study": "an hour; a cell of it is in tests/study",
    "make study-hold": "hours; a cell that is looked at is in tests/study",
    ".venv/bin/python -m pytest tests/judges": "a folder of the tests",
}
SMALLER = {
    "trace-ray run -c conf/examples/smollm2_pku_brevity.yaml": "corpus.limit=60 impact.gold_size=6 evaluate.prompts=4 "
    "evaluate.max_new_tokens=32 evaluate.drift_pairs=4 realign.learning_rate=1e-3 corpus.paths=[pairs.jsonl]",
    "trace-ray run -c conf/examples/smollm2_pku_vllm_judge.yaml": "corpus.paths=[pairs.jsonl]",
    "tests/bench/triage.py": "--pairs 8 --sizes 4000 --pairs-file pairs.jsonl",
    "tests.bench.impact ": "--pairs 4 --slow-pairs 1 --no-workers",
    "tests.bench.impact_validity": "--pairs 40 --parts a",
    "tests.bench.impact_lds": "--seeds 0 --pairs 40 --subsets 2",
    "tests/bench/realign.py": "--count 8 --pairs pairs.jsonl",
    "tests/bench/top_k.py": "--pairs 4",
    "tests/bench/scale.py": "--rows 20000",
    "tests.bench.report": "--rows 2000,4000",
    "tests.bench.actors": "--shards 4",
    "tests.bench.study_path": "--methods trace --pairs 80 --steps 4 --every 2",
}
"""Part of a command: what is added to it. An option given twice counts as it is given last."""
OWN = {".git", ".venv", "runs", "exported", "pairs.jsonl", "trace-ray.yaml", "my.yaml", "labels.jsonl"}
"""What a checkout may hold that the reader makes."""


def asked_here(command: Command) -> bool:
    """Returns whether a document promises that the command runs on a plain machine."""
    return not re.search(r"GPU|needs a cluster", command.about) and command.text not in ELSEWHERE


PROMISED = [command for path in DOCUMENTS for command in commands(path) if asked_here(command)]


def test_every_command_is_accounted_for() -> None:
    every = [command for path in DOCUMENTS for command in commands(path)]
    assert set(ELSEWHERE) <= {command.text for command in every}, "a reason for a command that no document has"
    assert all(any(part in command.text for command in PROMISED) for part in SMALLER)
    assert len(PROMISED) > 20
    for reason in ELSEWHERE.values():
        assert all((ROOT / path).is_dir() for path in re.findall(r"tests/\w+", reason))


class Reader:
    """Somebody who types the documents' commands into a checkout, and does between them what the text says."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder, self.server = folder, server
        self.environment = os.environ | CREDENTIALS | {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}
        for entry in ROOT.iterdir():
            if entry.name not in (
                ".git",
                ".venv",
                "runs",
                "exported",
                "pairs.jsonl",
                "trace-ray.yaml",
                "my.yaml",
                "labels.jsonl",
            ):
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "pairs.jsonl").write_text("".join(_pairs(120)))

    def types(self, command: Command) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command.text)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
            return subprocess.CompletedProcess(words, 0, "", "")
        self.prepares(command.text)
        words += next((more.split() for part, more in SMALLER.items() if part in command.text), [])
        if "s3://" in command.text:
            words.append(f"storage.endpoint={self.server.endpoint}")
        return subprocess.run(
            words,
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self.environment,
        )

    def prepares(self, text: str) -> None:
        """What the reader brings: a finished run called first, labels, a run in S3, a rater's choices, a study's run."""
        runs = self.folder / "runs"
        if "runs/first" in text and not (runs / "first").exists():
            shutil.copytree(runs / "demo", runs / "first")
            shutil.copy(runs / "demo" / "corpus" / "labels.jsonl", self.folder / "labels.jsonl")
        if "s3://bucket" in text:
            self.server.make_bucket("bucket")
            there = locate("s3://bucket/runs/first", StorageConfig(endpoint=self.server.endpoint, region="us-east-1"))
            for file in (runs / "first").rglob("*"):
                if file.is_file() and file.stat().st_size < 2**20:
                    (there / file.relative_to(runs / "first").as_posix()).write_bytes(file.read_bytes())
        if "ratings-anna.csv" in text:
            with (runs / "ratings" / "items.csv").open(newline="") as table:
                items = [row[0] for row in csv.reader(table)][1:]
            rated = "".join(f"{item},anna,{'AB'[number % 2]}\n" for number, item in enumerate(items))
            (runs / "ratings" / "ratings-anna.csv").write_text(f"item_id,rater,choice\n{rated}")
        if "runs/study-smollm2/trace" in text:
            shutil.copytree(runs / "trace", runs / "study-smollm2" / "trace")


def _pairs(count: int) -> Iterator[str]:
    """Pairs whose sides are drawn alike: no judge tells them apart, and about a third conflicts with the word limit."""
    rng = random.Random(0)
    words = ("the", "cat", "house", "was", "near", "and", "it", "had", "green", "hills", "of", "stone", "with", "rain")
    for number in range(count):
        chosen, rejected = (" ".join(rng.choices(words, k=rng.choice((12, 30, 70)))) for _ in range(2))
        row = f'{{"prompt": "Question {number}: what about {rng.choice(words)}?", '
        yield row + f'"chosen": "{chosen}. So it is.", "rejected": "{rejected}. That is all."}}\n'


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with pytest.MonkeyPatch.context() as patch, S3Server() as server:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield Reader(tmp_path_factory.mktemp("reader"), server)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", PROMISED, ids=lambda command: command.text[:70])
def test_a_command_does_what_the_document_says(reader: Reader, command: Command) -> None:
    stops = "must stop" in command.about
    done = reader.types(command)
    assert done.returncode == (2 if stops else 0), (done.stdout + done.stderr)[-3000:]
    if stops:
        assert "(limit triage.min_auc=" in done.stderr
