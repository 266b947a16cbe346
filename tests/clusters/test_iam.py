"""The S3 policies: what a run does is allowed, and nothing else; the workers' is a part of the head's."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from typing import Any

import pytest

from tests.clusters.documents import CLUSTERS

BUCKET = "arn:aws:s3:::REPLACE-ME-BUCKET"
ALLOWED = {
    "s3:GetObject": ["pairs", "models", "runs"],
    "s3:PutObject": ["runs"],
    "s3:DeleteObject": ["runs"],
    "s3:AbortMultipartUpload": ["runs"],
}


def statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads((CLUSTERS / "iam" / f"{name}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]  # type: ignore[no-any-return]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allows(name: str, action: str, resource: str) -> bool:
    return any(
        action in listed(statement["Action"])
        and any(fnmatch(resource, pattern) for pattern in listed(statement["Resource"]))
        for statement in statements(name)
    )


@pytest.mark.parametrize("name", ["head", "worker"])
def test_a_run_may_read_its_inputs_and_write_its_folder(name: str) -> None:
    for action, folders in ALLOWED.items():
        for folder in ("pairs", "models", "runs", "elsewhere", "conf"):
            there = folder in folders or (folder, action, name) == ("conf", "s3:GetObject", "head")
            assert allows(name, action, f"{BUCKET}/{folder}/x") == there, (action, folder)
    assert allows(name, "s3:ListBucket", BUCKET)


@pytest.mark.parametrize("name", ["head", "worker", "kms"])
def test_nothing_is_allowed_by_a_star(name: str) -> None:
    for statement in statements(name):
        assert statement["Effect"] == "Allow"
        assert not [action for action in listed(statement["Action"]) if "*" in action]
        assert not [
            place for place in listed(statement["Resource"]) if re.fullmatch(r"(arn:aws:s3:::)?[^/]*\*.*", place)
        ]


def test_listing_is_of_these_folders_only() -> None:
    for name in ("head", "worker"):
        (statement,) = [statement for statement in statements(name) if "s3:ListBucket" in statement["Action"]]
        prefixes = statement["Condition"]["StringLike"]["s3:prefix"]
        assert "*" not in prefixes
        assert {prefix.split("/")[0] for prefix in prefixes} <= {"", "pairs", "models", "runs", "conf"}


def test_what_workers_may_do_the_head_may() -> None:
    assert [statement for statement in statements("worker") if statement["Sid"] != "FindPairsModelsAndRuns"] == [
        statement
        for statement in statements("head")
        if statement["Sid"] not in ("FindPairsModelsAndRuns", "ReadRunSettings")
    ]
