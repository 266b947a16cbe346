"""What Inspect itself makes of exported logs, held against the run's parquet: nothing lost, nothing changed.

Run in an environment with inspect-ai, pandas and pyarrow, which need not have trace-ray:

    python inspect_reads.py LOGS RUN

Inspect 0.3.285 (Python 3.11, pandas 3.1, pyarrow 26) read the demo's logs of 128 samples a model and SmolLM2's of 80: its
dump gave back every field as written, and its viewer (`inspect view --log-dir LOGS`) showed them with scores and texts.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from inspect_ai.analysis import samples_df
from inspect_ai.log import list_eval_logs, read_eval_log


def kept(written: Any, read: Any, where: str = "") -> None:
    """Holds that all that was written is there, with its value; Inspect adds what it defaults."""
    if isinstance(written, dict):
        for name, value in written.items():
            assert name in read, f"{where}/{name} is lost"
            kept(value, read[name], f"{where}/{name}")
    elif isinstance(written, list):
        assert len(written) == len(read), where
        for place, (mine, theirs) in enumerate(zip(written, read, strict=True)):
            kept(mine, theirs, f"{where}/{place}")
    else:
        assert written == read, f"{where}: {written!r} became {read!r}"


def main(logs: Path, run: Path) -> None:
    parts = sorted((run / "evaluation" / "responses").glob("*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    files = sorted(logs.glob("*.json"))
    assert len(list_eval_logs(str(logs))) == len(files) == 2
    for file in files:
        dumped = subprocess.run(["inspect", "log", "dump", str(file)], capture_output=True, text=True, check=True)
        kept(json.loads(file.read_text()), json.loads(dumped.stdout))
        log = read_eval_log(str(file))
        mine = {row["pair_id"]: row for row in rows if row["model"] == file.stem.rpartition("_")[2]}
        assert log.status == "success"
        assert log.results.completed_samples == len(log.samples) == len(mine)
        for sample in log.samples:
            row = mine[sample.id]
            assert (sample.input, sample.output.completion) == (row["prompt"], row["response"])
            assert (sample.scores["complies"].value == "C") == row["compliant"]
        (score,) = log.results.scores
        assert score.metrics["accuracy"].value == sum(row["compliant"] for row in mine.values()) / len(mine)
        for group in {row["category"] for row in mine.values()}:
            found = [row["compliant"] for row in mine.values() if row["category"] == group]
            assert abs(score.metrics[f"accuracy_{group}"].value - sum(found) / len(found)) < 1e-12
        print(log.eval.model, log.status, len(log.samples), {n: m.value for n, m in score.metrics.items()})
    frame = samples_df(str(logs))
    assert sorted(frame["id"]) == sorted(row["pair_id"] for row in rows)
    said = (frame["score_complies"] == "C").sum()
    assert said == sum(row["compliant"] for row in rows)
    print("data frame:", frame.shape)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
