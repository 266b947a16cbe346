"""What holds: the plan, which step a selection keeps, the tables, and a cell that is looked at on its way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from trace_ray.config import JudgeConfig
from trace_ray.judges.backends import make_judge
from trace_ray.study.cells import HOLD_METHODS, SEEDS, Cell, hold_plan
from trace_ray.study.corpora import judged_corpus
from trace_ray.study.hold import hold_figures, hold_table, kept_table, plot_paths, selected_table
from trace_ray.study.measure import measure
from trace_ray.study.realign import realign_cell
from trace_ray.study.watch import Watch
from trace_ray.synth.oracle import CHANGED


def result(method: str, seed: int, tpas: list[float], steps: int = 180, **cell: Any) -> dict[str, Any]:
    path = [{"step": steps * i // (len(tpas) - 1), "tpa": tpa, "kept": 99.0, "kl": 0.002} for i, tpa in enumerate(tpas)]
    return {
        "cell": {"method": method, "seed": seed, "times": 1.0, "noise": 0.0} | cell,
        "steps": steps,
        "tpa": tpas[-1],
        "path": path,
        "selected": {"step": 60, "kl": 0.001, "tpa": max(tpas), "tpa_last": tpas[-1]},
    }


def test_the_plan_has_every_length_and_rate_of_what_is_claimed() -> None:
    cells = list(hold_plan())
    assert len({cell.name for cell in cells}) == len(cells)
    trained = Counter((c.method, c.seed, c.noise, c.config().realign.max_steps, c.times) for c in cells)
    columns = [(0.0, 60, 1.0), (0.0, 180, 0.5), (0.0, 180, 1.0), (0.0, 180, 2.0), (0.0, 540, 1.0), (0.2, 180, 1.0)]
    assert trained == {(m, s, *column): 1 for m in HOLD_METHODS for s in SEEDS for column in columns}
    assert Cell(method="trace", pairs=9, seed=0, rate=1e-3, times=0.5).config().realign.learning_rate == 5e-4


def test_the_tables_by_hand(tmp_path: Path) -> None:
    """Mean 90, standard deviation 10, t(0.975, 2) = 4.3027: half-width 24.84."""
    results = [result("trace", seed, [75.0, 100.0, last]) for seed, last in enumerate((80.0, 90.0, 100.0))]
    results += [result("trace_hold", 0, [75.0, 100.0], 60), result("trace_hold", 0, [75.0, 99.0], times=2.0)]
    results += [result("trace_hold", 0, [75.0, 98.0], noise=0.2)]
    assert hold_table(results).splitlines() == [
        "| TPA, % | 60 steps | 180 steps | 180 steps, 2 x rate | 180 steps, 20% noise |",
        "|---|---|---|---|---|",
        "| trace |  | 90.0 ± 24.8 |  |  |",
        "| trace_hold | 100.0 |  | 99.0 | 98.0 |",
    ]
    assert "| trace |  | 100.0 ± 0.0 (90.0) |" in selected_table(results)
    assert "| trace |  | 99.0 ± 0.0 (0.0020) |" in kept_table(results)
    found = hold_figures(results)["trace"]["180 steps"]
    assert found == {"tpa": 90.0, "low": pytest.approx(65.16, abs=0.01), "least_kept": 99.0, "seeds": 3}
    plot_paths(results, tmp_path / "hold.svg")
    assert "trace" in (tmp_path / "hold.svg").read_text()


@pytest.mark.parametrize(
    ("rights", "kept", "tpa"),
    [
        ([(2, 0), (4, 4), (2, 4)], 30, 100.0),  # every other prompt chooses, the rest are told
        ([(2, 2), (4, 0), (4, 4)], 30, 0.0),  # of equals the earliest
        ([(4, 2), (3, 4), (2, 4)], 0, 50.0),  # nothing better than the model before
    ],
)
def test_half_of_the_prompts_choose_and_the_others_tell(rights: list[tuple[int, int]], kept: int, tpa: float) -> None:
    """Of each source alike, in whatever order they come: here every other prompt is of the one that changes."""
    rows = [{"split": "test", "source": (CHANGED, "benign")[i % 2]} for i in range(8)]
    watch = Watch(rows, Cell(method="trace", pairs=9, seed=0).config(), looks=2)
    for number, (choosing, telling) in enumerate(rights):
        right = [(i // 4 * 2 + i % 2) < (telling if i // 2 % 2 else choosing) for i in range(8)]
        watch.seen.append({"step": 30 * number, "right": right, "kl": 0.001 * number})
    selected = watch.figures()["selected"]
    last = 25.0 * rights[-1][1]
    assert (selected["step"], selected["tpa"], selected["tpa_last"]) == (kept, tpa, last)
    assert [at["tpa"] for at in watch.figures()["path"]] == [100 * (a + b) / 8 for a, b in rights]


@pytest.mark.slow
def test_looks_change_nothing_and_end_with_what_is_measured() -> None:
    cell = Cell(method="trace_hold", pairs=80, seed=0, overrides=("realign.max_steps=6",), looks=3)
    config = cell.config()
    triaged: pa.Table = judged_corpus(80, 0, make_judge(config.policy, JudgeConfig(backend="rules")), config.triage)
    watch = Watch(triaged.to_pylist(), config, cell.looks)
    looked, alone = realign_cell(triaged, config, watch.after_step, watch.start), realign_cell(triaged, config)
    for mine, theirs in zip(looked.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    path, found = watch.figures()["path"], measure(alone.model, triaged.to_pylist(), config)
    assert [at["step"] for at in path] == [0, 2, 4, 6]
    assert (path[0]["tpa"], path[0]["kept"], path[0]["kl"]) == (75.0, 100.0, pytest.approx(0, abs=1e-7))
    assert (path[-1]["tpa"], path[-1]["kl"]) == (found["tpa"], found["kl_to_base"])
    kept = [share for source, share in found["tpa_by_source"].items() if source != CHANGED]
    assert min(kept) <= path[-1]["kept"] <= max(kept)
