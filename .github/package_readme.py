"""README as a package index shows it: links and pictures by absolute address, where the build knows the repository.

A hook of hatchling. GITHUB_REPOSITORY (owner/name) is set by GitHub Actions; without it README stays as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def absolute(text: str, repository: str, version: str) -> str:
    """Returns Markdown whose relative links point to the files of that version's tag, pictures to their bytes."""
    page = f"https://github.com/{repository}/blob/v{version}/"
    raw = f"https://raw.githubusercontent.com/{repository}/v{version}/"
    text = re.sub(r'\b(src|srcset)="(?!https?:)([^"]+)"', rf'\1="{raw}\2"', text)
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", rf"]({page}\1)", text)


class PackageReadme(MetadataHookInterface):  # type: ignore[misc,unused-ignore]
    """Gives the built package its README."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets ``readme``, which pyproject.toml leaves to this hook."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository := os.environ.get("GITHUB_REPOSITORY"):
            text = absolute(text, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
