"""Names of run folders that lead elsewhere are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.pipeline import run_folder


def test_a_name_that_climbs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no '\.\.'"):
        run_folder(f"{tmp_path}/runs/../../etc", StorageConfig())
    with pytest.raises(UserError, match="plain prefix"):
        run_folder("s3://lake/runs/../other", StorageConfig())


def test_a_symlink_is_refused_as_run_and_inside_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    with pytest.raises(UserError, match="a symlink to"):
        run_folder(str(link), StorageConfig())
    (real / "model").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a symlink to"):
        run_folder(str(real), StorageConfig())


def test_a_folder_below_a_linked_parent_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    assert run_folder(str(tmp_path / "home" / "run"), StorageConfig()).place.is_local
