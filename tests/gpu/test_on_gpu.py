"""The GPU check on a card: `pytest -m gpu tests/gpu`, which fails where there is none; floors are those of an H100."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import check

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the figures of every part, of one check of at most TOTAL seconds."""
    folder: Path = tmp_path_factory.mktemp("check")
    assert check.main(["--out", str(folder)]) != 2, "no GPU, tokenizer or pairs: see what it said"
    return dict(json.loads((folder / "check.json").read_text())["parts"])


@pytest.mark.parametrize("name", check.LIMITS)
def test_a_part_goes_well(parts: dict[str, Any], name: str) -> None:
    assert parts[name]["ok"], parts[name].get("error")


def test_scoring_and_training_use_the_card(parts: dict[str, Any]) -> None:
    score, train, trl = (parts[name] for name in ("score", "train", "trl"))
    assert score["score"]["tokens_per_s"] >= 12_000
    assert score["score"]["peak_gib"] <= 60
    assert train["tokens_per_s"] >= max(6_000, 2 * trl["tokens_per_s"])


def test_the_judge_does_not_wait_and_the_pipeline_is_through_in_four_minutes(parts: dict[str, Any]) -> None:
    assert parts["judge"]["pairs_per_s"] >= 60
    assert parts["judge"]["engine_busy_share"] >= 0.9
    assert parts["pipeline"]["command_s"] <= 240
