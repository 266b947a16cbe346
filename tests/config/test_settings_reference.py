"""conf/reference.yaml and conf/schema.json are those of the code, and hold for every configuration that is shipped."""

from __future__ import annotations

import functools
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from trace_ray.cli.start import NEEDS, starter
from trace_ray.config import Config
from trace_ray.config.load import read_config
from trace_ray.config.reference import SCHEMA, YAML, reference, schema
from trace_ray.config.sources import conf_folder, parse

CONF = conf_folder()
SHIPPED = [CONF / YAML, *(path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name != "tasks")]
SHIPPED += [starter(kind) for kind in NEEDS]


def test_both_files_are_made_from_the_code() -> None:
    assert (CONF / YAML).read_text() == reference() + "\n", "run `make reference`"
    assert json.loads((CONF / SCHEMA).read_text()) == schema(), "run `make reference`"


def test_the_reference_is_the_defaults() -> None:
    assert read_config([CONF / YAML]) == Config()


def test_every_setting_of_the_reference_has_a_comment() -> None:
    lines = (CONF / YAML).read_text().splitlines()
    bare = [line for above, line in pairwise(lines) if re.match(r" *\w+:", line) and "#" not in above]
    assert bare == []
    text = " ".join(line.strip(" #") for line in lines)
    for said in ("bounds: at least 8 tokens", "one of: cosine, linear, constant", "seconds one request may take"):
        assert said in text


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    """Made once: that the schema is one takes a hundred times as long to tell as whether a file agrees with it."""
    written = json.loads((CONF / SCHEMA).read_text())
    jsonschema.Draft202012Validator.check_schema(written)
    return jsonschema.Draft202012Validator(written)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(path.parents[1]).as_posix())
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    validator().validate(parse(path.read_text()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"realign": {"learning_rat": 1e-4}},
        {"realign": {"offload": "disk"}},
        {"triage": {"judge": {"endpoint": {"timeout_s": "soon"}}}},
        {"triage": {"second_judge": {"backened": "rules"}}},
        {"policy": {"clauses": [{"rule": {"max_words": 1.5}}]}},
        {"corpus": {"paths": "pairs.jsonl"}},
        {"learning_rate": 1},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(wrong)
