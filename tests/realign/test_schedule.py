"""Learning rate over a run, Algorithm 1's stop, and what the card and the trackers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.realign.card import base_licence, model_card
from trace_ray.realign.schedule import converged, rate_factor
from trace_ray.realign.trackers import TENSORBOARD, check_trackers, make_trackers
from trace_ray.storage import locate


def test_the_rate_warms_up_then_falls() -> None:
    cosine = [rate_factor(i, 100, 10, "cosine") for i in range(100)]
    assert cosine[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert cosine[9] == cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] < 0.001
    linear = [rate_factor(i, 100, 0, "linear") for i in range(100)]
    assert linear[50] == pytest.approx(0.5)
    assert rate_factor(99, 100, 0, "constant") == 1.0
    assert rate_factor(0, 20, 100, "constant") == 0.5  # at most a tenth of the run


def test_a_run_stops_once_the_norm_stays_below_epsilon() -> None:
    assert not converged([0.1] * 5, 0.0, 3)
    assert not converged([0.1, 0.9, 0.1], 0.5, 3)
    assert converged([0.9, 0.1, 0.2, 0.3], 0.5, 3)


def test_the_card_carries_the_base_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\ntags: [x]\n---\ntext")
    licence = base_licence(str(tmp_path))
    assert licence == {"license": "other", "license_name": "llama3.1"}
    card = model_card({"base model": "b", "method": "trace"}, licence)
    assert "license: other\nlicense_name: llama3.1\n" in card.split("---\n")[1]


def test_tensorboard_is_written_and_a_resume_voids_what_was_lost(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = locate(str(tmp_path), StorageConfig())
    (first,) = make_trackers(("tensorboard",), place, "run", 1)
    for step in (1, 2, 3):
        first.log(step, {"grad_norm": float(step)})
    first.flush()
    (second,) = make_trackers(("tensorboard",), place, "run", 3)
    second.log(3, {"grad_norm": 30.0})
    second.flush()
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload().Scalars("grad_norm")
    assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(("wandb",))
