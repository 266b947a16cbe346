"""The table of losses is the only place that knows a loss by name, and a loss of anybody's is one entry."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trace_ray
from tests.impact import tiny
from tests.impact.test_losses_of_pairs import loss_gains
from trace_ray.config import ObjectiveConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.objective import losses
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.reduction import Denominators, reduce_losses
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.policy_module import HybridPolicy

DEMO = conf_folder() / "examples" / "demo.yaml"
TOY = """
from trace_ray.objective.losses.entry import Loss, Parameter, Reads

TOY = Loss(
    name="toy_hinge",
    doc="a gap between two responses",
    source="none",
    value=lambda preferred, suppressed, p: (p["gap"] - preferred.log_ratio_B + suppressed[0].log_ratio_B).clamp(min=0),
    reads=Reads.LOG_RATIOS,
    prefers=True,
    suppresses=(1,),
    parameters=(Parameter(name="gap", doc="", holds=lambda v: v > 0, remedy="give a positive gap", default=1.0),),
)
ENTRIES = (TOY,)
"""


@pytest.fixture(params=["a file of the folder", "another package", "a dotted path"])
def toy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a loss of one file, found in the table's own folder, by an entry point or by where it is."""
    monkeypatch.setattr(losses, "LOSSES", dict(losses.LOSSES))
    (tmp_path / "toy_losses.py").write_text(TOY)
    if request.param == "a dotted path":
        monkeypatch.syspath_prepend(str(tmp_path))
    elif request.param == "another package":
        about = tmp_path / "toy-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[trace_ray.losses]\ntoy_hinge = toy_losses:TOY\n")
        monkeypatch.syspath_prepend(str(tmp_path))
    else:
        monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
        losses.LOSSES.update(losses._own())
    yield "toy_losses:TOY" if request.param == "a dotted path" else "toy_hinge"
    for name in ("toy_losses", f"{losses.__name__}.toy_losses"):
        sys.modules.pop(name, None)


def objective_of(*overrides: str) -> ObjectiveConfig:
    return load_config([DEMO], overrides, method="trace").objective


def test_a_toy_loss_is_checked_scored_and_trained(toy: str) -> None:
    for wrong, said in (
        ("gap: 0", r"objective\.INVERT\.gap: 0: give a positive gap"),
        ("gpa: 2.0", r"objective\.INVERT\.gpa: 2\.0: unknown setting \(did you mean 'gap'\?\)"),
        ("suppress: []", r"objective\.INVERT\.suppress: \[\]: toy_hinge takes 1 suppressed"),
    ):
        with pytest.raises(UserError, match=said):
            objective_of(f"objective.INVERT=[{{loss: {toy}, {wrong}}}]")
    objective = objective_of(f"objective.INVERT=[{{loss: {toy}, gap: 2.0}}, {{loss: sft, weight: 0.5}}]")
    model = tiny.adapted(tiny.llama(), at_init=False)
    rows = [row(model, *pair) | {"row": number} for number, pair in enumerate(tiny.SEQUENCES)]
    direction = tiny.random_direction(model)
    expected = [tiny.derivative(model, by_hand(model, pair), direction) for pair in rows]
    model.requires_grad_(False)
    assert tiny.relative_error(loss_gains(rows, objective, model, direction), expected) <= 1e-4
    trained = tiny.adapted(tiny.llama(), at_init=True)
    before, after = train(trained, rows, objective)
    assert before > 2.0  # the gap of a pair that has not moved, and sft
    assert after < 0.6 * before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:TOY", "cannot be imported here: No module named 'nowhere'; install its package"),
        ("math:TOY", "cannot be imported here: module 'math' has no attribute 'TOY'"),
        ("math:pi", "math:pi is no Loss"),
        ("toy_hinge", "use one of "),
    ],
)
def test_a_loss_that_is_not_there_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"objective\.INVERT\.loss: {name}: {said}"):
        objective_of(f"objective.INVERT=[{{loss: {name}}}]")


def row(model: Any, prompt: list[int], response: list[int]) -> dict[str, Any]:
    sides = {"chosen": [4, 4, 9], "rejected": response}
    made: dict[str, Any] = {"pair_id": "0", "category": "INVERT", "weight": 1.0, "prompt_ids": prompt}
    with model.disable_adapter(), torch.no_grad():
        for name, ids in sides.items():
            made |= {f"{name}_ids": ids, f"{name}_ref_logp": float(tiny.log_prob(model, prompt, ids))}
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return made


def by_hand(model: Any, pair: dict[str, Any]) -> torch.Tensor:
    logp = {n: tiny.log_prob(model, pair["prompt_ids"], pair[f"{n}_ids"]) for n in ("chosen", "rejected")}
    ratio = {n: value - pair[f"{n}_ref_logp"] for n, value in logp.items()}
    gap = (2.0 - ratio["rejected"] + ratio["chosen"]).clamp(min=0)
    loss: torch.Tensor = gap - 0.5 * logp["rejected"] / len(pair["rejected_ids"])
    return loss


def train(model: Any, rows: list[dict[str, Any]], objective: ObjectiveConfig) -> tuple[float, float]:
    """Twenty steps; returns the loss at the first and at the last."""
    policy, seen = HybridPolicy(model), []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(20):
        batch = micro_batch(rows, objective)
        logp_S, kl_S = policy(batch.groups)
        loss = reduce_losses(
            pair_losses(batch, logp_S, kl_S, objective), Denominators(len(rows), 0, 0.1), objective.weighed
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        seen.append(loss.item())
    return seen[0], seen[-1]


def test_no_other_file_asks_which_loss_it_is() -> None:
    found = [
        f"{file.name}:{node.lineno}"
        for file in Path(trace_ray.__file__).parent.rglob("*.py")
        if "objective/losses" not in file.as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Attribute) and side.attr == "loss" for side in (node.left, *node.comparators))
    ]
    assert found == []


def test_the_guide_says_of_every_loss_what_the_table_says() -> None:
    written = [line for line in (conf_folder() / "README.md").read_text().splitlines() if line.startswith("| `")]
    for entry in losses.LOSSES.values():
        takes = ["a preferred response"] * entry.prefers
        takes += [f"{' or '.join(map(str, entry.suppresses))} suppressed"] * (0 not in entry.suppresses)
        parameters = ", ".join(f"`{p.name}`" for p in entry.parameters)
        expected = f"| `{entry.name}` | {entry.doc} | {', '.join(takes)} | {parameters} | {entry.source} |"
        assert expected in written, f"conf/README.md lacks the row\n{expected}"


def test_the_configuration_reads_the_table_without_torch() -> None:
    import subprocess

    code = "import sys, trace_ray.config.load, trace_ray.config.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
