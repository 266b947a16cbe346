"""The folder as a user has it who followed the steps."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clusters.documents import CLUSTERS
from tests.support.documents import commands

VALUES = {
    "BUCKET": "a-bucket",
    "REGISTRY": "us-central1-docker.pkg.dev/a-project/trace-ray",
    "ACCOUNT": "123456789012",
    "CLUSTER": "a-cluster",
    "FILESYSTEM": "fs-0123456789",
    "ENDPOINT": "s3.example",
    "KEY": "1234abcd",
}


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clusters/ with a user's values in it, put there by the README's own commands."""
    folder = tmp_path_factory.mktemp("filled") / "clusters"
    shutil.copytree(CLUSTERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    steps = [command.text for command in commands(CLUSTERS / "README.md") if command.text.startswith("sed ")]
    assert len(steps) == 4
    for step in steps:
        subprocess.run(["bash", "-c", step], cwd=folder.parent, env=os.environ | VALUES, timeout=60, check=True)
    return folder
