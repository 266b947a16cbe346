"""The rows that the formats' README shows are read as it says; every format has one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import trace_ray.corpus.formats
from trace_ray.config import CorpusConfig
from trace_ray.corpus.rows import FORMATS, RejectedRowError, detect_format, fit_length, parse_row
from trace_ray.pairs import RejectReason

README = Path(trace_ray.corpus.formats.__file__).with_name("README.md")


def rows(section: str) -> list[Any]:
    (text,) = re.findall(rf"(?ms)^## {re.escape(section)}\n(.*?)(?=^## |\Z)", README.read_text())
    return [json.loads(line) for block in re.findall(r"(?ms)^```json\n(.*?)^```", text) for line in block.splitlines()]


SHOWN = [pytest.param(name, row, id=f"{name}-{i}") for name in FORMATS for i, row in enumerate(rows(name))]


@pytest.mark.parametrize(("name", "row"), SHOWN)
def test_a_row_is_read_as_the_readme_says(name: str, row: dict[str, Any]) -> None:
    assert detect_format(row) == name
    for form in ("auto", name):
        config = CorpusConfig(format=form)
        (pair,) = (fit_length(parsed, 0, "reject") for parsed in parse_row(row, config))
        assert (pair.chosen.strip(), pair.rejected.strip()) == ("So.", "No.")
        asked = "SUBREDDIT: r/ask\n\nTITLE: Why?\n\nPOST: Tell me.\n\nTL;DR:" if name == "summaries" else "Why?"
        assert pair.prompt[-1] == {"role": "user", "content": asked}


def test_every_format_has_a_row() -> None:
    assert [name for name in FORMATS if not rows(name)] == []


@pytest.mark.parametrize("row", rows("Refused"), ids=json.dumps)
def test_a_row_that_is_no_pair_is_refused_with_what_it_takes(row: dict[str, Any]) -> None:
    with pytest.raises(RejectedRowError, match="a pair needs two answers") as caught:
        parse_row(row, CorpusConfig())
    assert caught.value.reason == RejectReason.NOT_A_PAIR
