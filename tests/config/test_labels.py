"""Label selectors are read as Ray reads them."""

from __future__ import annotations

import pytest

from trace_ray.config.load import load_config
from trace_ray.config.selectors import selector_problems, selects
from trace_ray.errors import UserError

SELECTORS = [
    {"trace-ray/pool": "judge"},
    {"trace-ray/pool": "!judge"},
    {"trace-ray/pool": "in(judge,trainer)"},
    {"trace-ray/pool": "!in(judge,trainer)"},
    {"market": "spot", "trace-ray/pool": "trainer"},
    {"trace-ray/pool": "in()"},
    {"trace-ray/pool": "-judge"},
    {"trace-ray/pool": "a judge"},
    {"trace-ray/pool": "in(judge, !trainer)"},
    {"trace-ray/pool": "!!judge"},
    {"trace ray": "judge"},
    {"a" * 64: "judge"},
    {"pool": "j" * 64},
]
NODES = [{}, {"trace-ray/pool": "judge"}, {"trace-ray/pool": "trainer", "market": "spot"}, {"trace-ray/pool": "cpu"}]


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_what_ray_refuses_is_refused_before_it_starts(selector: dict[str, str]) -> None:
    from ray._private.label_utils import validate_label_selector

    assert bool(list(selector_problems("x", selector))) == bool(validate_label_selector(selector))


@pytest.mark.parametrize("value", ["in(judge, trainer)", "!in(judge, trainer)"])
def test_a_blank_that_ray_would_look_for_in_labels_is_refused(value: str) -> None:
    """Ray 2.60 accepts it, and then waits for a node whose label begins with a blank."""
    from ray._private.label_utils import validate_label_selector

    assert validate_label_selector({"trace-ray/pool": value}) is None
    (problem,) = selector_problems("realign.label_selector", {"trace-ray/pool": value})
    assert "without blanks" in str(problem)


@pytest.mark.parametrize(
    ("selector", "nodes"),
    [
        ({}, [0, 1, 2, 3]),
        ({"trace-ray/pool": "judge"}, [1]),
        ({"trace-ray/pool": "!judge"}, [0, 2, 3]),
        ({"trace-ray/pool": "in(judge,trainer)"}, [1, 2]),
        ({"trace-ray/pool": "!in(judge,trainer)"}, [0, 3]),
        ({"trace-ray/pool": "in(judge,trainer)", "market": "spot"}, [2]),
    ],
    ids=str,
)
def test_which_nodes_a_selector_selects(selector: dict[str, str], nodes: list[int]) -> None:
    """Worked by hand; tests/ray/test_labelled_nodes.py asks Ray's scheduler the same."""
    assert [number for number, labels in enumerate(NODES) if selects(selector, labels)] == nodes


@pytest.mark.parametrize("section", ["triage.judge", "impact", "realign", "evaluate", "evaluate.judge"])
def test_a_selector_that_ray_could_not_read_is_one_line(section: str) -> None:
    with pytest.raises(UserError, match=rf"^{section}.label_selector.pool: a judge: give a label's value"):
        load_config([], ["policy.text=Be brief.", f"{section}.label_selector={{pool: a judge}}"])
