"""Where a node keeps its copies: in the home, or where there is none that can be written, in a folder of this user alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trace_ray.errors import UserError
from trace_ray.storage.staging import STORAGE_VARIABLE, cache_folder, home_cache


@pytest.fixture(params=["a home that is a file", "a user that the system does not know", "a home that is read-only"])
def homeless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the home away; returns the folder of temporary files."""
    for name in ("TRACE_RAY_CACHE", STORAGE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    if "file" in request.param:
        home.write_text("")
    elif "read-only" in request.param:  # root may write everywhere: what the system would say is said here
        (home / ".cache" / "trace-ray").mkdir(parents=True)
        monkeypatch.setattr("trace_ray.storage.staging.os.access", lambda path, _: not str(path).startswith(str(home)))
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", _nobody)
    return tmp_path


def _nobody(uid: int) -> None:
    raise KeyError(uid)


def test_without_a_home_it_is_a_folder_of_this_user_alone(homeless: Path) -> None:
    assert home_cache() is None
    found = cache_folder()
    assert found == homeless / f"trace-ray-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == found


@pytest.mark.parametrize(
    "taken", [lambda path: (path.mkdir(), path.chmod(0o777)), lambda path: path.symlink_to("/usr")]
)
def test_a_folder_that_others_can_write_is_refused(homeless: Path, taken: Callable[[Path], None]) -> None:
    taken(homeless / f"trace-ray-{os.getuid()}")
    with pytest.raises(UserError, match=r"TRACE_RAY_CACHE: .*others can write there"):
        cache_folder()


def test_a_folder_that_is_named_wins(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_RAY_CACHE", str(homeless / "mine" / "copies"))
    assert cache_folder() == homeless / "mine" / "copies"
    assert cache_folder().is_dir()


def test_with_a_home_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACE_RAY_CACHE", raising=False)
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == home_cache() == tmp_path / ".cache" / "trace-ray"
