"""What every process of a run is started with, beside torch add-ons that do not fit its torch."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from trace_ray.runtime import environment

INSTALLED = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"}


def version(package: str) -> str:
    if package not in INSTALLED:
        raise metadata.PackageNotFoundError(package)
    return INSTALLED[package]


@pytest.mark.parametrize("given", ["", "/mine:/theirs"])
def test_children_get_the_same_paths_however_often_they_are_prepared(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("PYTHONPATH", given)
    monkeypatch.setitem(sys.modules, "torchvision", sys.modules.get("torchvision"))
    assert environment.mismatched_add_ons() == ["torchvision"]
    first = environment.child_environment()
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    environment.prepare()
    environment.prepare()
    assert environment.child_environment() == first
    shim, *rest = first["PYTHONPATH"].split(":")
    assert shim.endswith("shim")
    assert rest == given.split(":") * bool(given)
    with pytest.raises(ImportError):
        __import__("torchvision")
