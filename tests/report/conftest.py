"""A run of made-up artefacts, for each file of tests its own."""

from __future__ import annotations

import pytest

from tests.report.made_run import AUDIT, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    made = MadeRun(tmp_path_factory.mktemp("run"))
    made.everything(AUDIT)
    return made
