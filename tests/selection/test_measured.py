"""Candidates and what was measured of them, as files: written once, found again, told apart."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
import torch

from trace_ray.evaluate.answering import write_part
from trace_ray.model.loading import load_adapter, load_model
from trace_ray.realign.candidates import (
    ask_to_stop,
    asked_to_stop,
    candidate_place,
    candidates,
    drop_others,
    write_candidate,
)
from trace_ray.realign.weights import trainable
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import validations
from trace_ray.selection.measure import answer_chunks, drift_file, publish, unfinished, waiting

PROMPTS: list[dict[str, Any]] = [
    {"pair_id": f"p{i}", "prompt": [{"role": "user", "content": f"q {i}"}], "source": "s", "category": name}
    for i, name in enumerate(["INVERT", "RETAIN", "RETAIN", "INVERT"] * 20)
]


def weights(model: Any, value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(parameter, value) for name, parameter in trainable(model)}


def test_a_candidate_is_an_adapter_that_loads_and_stays_as_it_was_first_written(run: Run, adapted: Any) -> None:
    model, config = adapted
    write_candidate(run, model, weights(model, 0.25), 20)
    first = candidates(run)
    write_candidate(run, model, weights(model, 0.5), 20)  # a resumed training comes by again
    assert candidates(run) == first
    loaded = load_adapter(load_model(config.model), candidate_place(run, 20).path + "/adapter", trainable=False)
    lora = {name: value for name, value in loaded.state_dict().items() if "lora_" in name}
    assert lora
    assert all(bool((value == 0.25).all()) for value in lora.values())


def test_one_whose_marker_is_missing_is_none_and_is_written_anew(run: Run, adapted: Any) -> None:
    model, _ = adapted
    write_candidate(run, model, weights(model, 0.25), 20)
    half_written = run.realign.place / "selection" / "candidates" / "step-000020.json"
    half_written.fs.delete_file(half_written.path)
    assert candidates(run) == {}
    write_candidate(run, model, weights(model, 0.5), 20)
    assert list(candidates(run)) == [20]


def answered(run: Run, step: int, complying: int) -> None:
    """Writes the answers and verdicts of a candidate as the actors would, the first ``complying`` of them compliant."""
    place = run.realign.place / "selection"
    at = 0
    for chunk in answer_chunks([step], PROMPTS):
        rows = [
            {k: row[k] for k in ("pair_id", "source", "category")}
            | {"prompt": row["pair_id"], "model": chunk.model, "response": "yes", "compliant": at + i < complying}
            for i, row in enumerate(chunk.prompts)
        ]
        at += len(rows)
        write_part(place / "generated" / chunk.name, rows, 100)
        write_part(place / "responses" / chunk.name, rows, 10)


def test_figures_are_those_of_the_answers_and_only_what_is_left_is_made(run: Run, adapted: Any) -> None:
    model, _ = adapted
    for step in (20, 40):
        write_candidate(run, model, weights(model, float(step)), step)
    assert waiting(run) == [20, 40]
    todo = answer_chunks([20, 40], PROMPTS)
    assert [len(chunk.prompts) for chunk in todo] == [64, 16, 64, 16]
    answered(run, 20, complying=40)
    assert {chunk.model for chunk in unfinished(todo, run.realign.place / "selection" / "responses")} == {"step-000040"}
    drift_file(run, 20).write_text(json.dumps({"kl_to_base": 0.125}))
    published = publish(run, 20, len(PROMPTS), 8.0)
    assert published.tpa == {"all": 50.0, "INVERT": 50.0, "RETAIN": 50.0}
    assert published.prompts == {"all": 80, "INVERT": 40, "RETAIN": 40}
    assert (published.drift, published.tokens) == (0.125, 2 * 100 + 2 * 10)
    assert validations(run) == [published]
    assert waiting(run) == [40]


def test_answers_that_were_lost_are_no_figures(run: Run, adapted: Any) -> None:
    model, _ = adapted
    write_candidate(run, model, weights(model, 1.0), 20)
    answered(run, 20, complying=1)
    drift_file(run, 20).write_text("{}")
    part = next(iter((run.realign.place / "selection" / "responses").files()))
    rows = part.read_parquet().to_pylist()[1:]
    part.write_parquet(pa.Table.from_pylist(rows, schema=part.read_parquet().schema))
    with pytest.raises(RuntimeError, match="79 of 80"):
        publish(run, 20, len(PROMPTS), 1.0)


def test_what_was_measured_of_another_adapter_is_measured_anew(run: Run, adapted: Any) -> None:
    model, _ = adapted
    write_candidate(run, model, weights(model, 1.0), 20)
    answered(run, 20, complying=1)
    drift_file(run, 20).write_text("{}")
    publish(run, 20, len(PROMPTS), 1.0)
    marker = run.realign.place / "selection" / "candidates" / "step-000020.json"
    marker.write_text(json.dumps({"step": 20, "sha256": "another"}))
    assert waiting(run) == [20]
    assert len(unfinished(answer_chunks([20], PROMPTS), run.realign.place / "selection" / "generated")) == 2


def test_the_kept_candidates_adapter_stays_and_the_others_go(run: Run, adapted: Any) -> None:
    model, _ = adapted
    for step in (20, 40):
        write_candidate(run, model, weights(model, float(step)), step)
    drop_others(run, 20)
    assert candidate_place(run, 20).exists()
    assert not candidate_place(run, 40).exists()
    assert list(candidates(run)) == [20, 40]


def test_stopping_is_asked_for_by_a_file(run: Run) -> None:
    assert not asked_to_stop(run)
    ask_to_stop(run, 60)
    assert asked_to_stop(run)
