"""Prints what the project needs, without the project: the image installs that first, so that a change of ours keeps the layer.

python clusters/requirements.py cuda            # beside pyproject.toml
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(text: str, extra: str) -> list[str]:
    """Returns the dependencies that a pyproject.toml names, and those of one extra."""
    project = tomllib.loads(text)["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml").read_text(encoding="utf-8"), sys.argv[1])))
