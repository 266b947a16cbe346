"""A run of made-up artefacts and a browser, for each file of tests its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.report.chromium import Chromium
from tests.report.made_run import AUDIT, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    made = MadeRun(tmp_path_factory.mktemp("run"))
    made.everything(AUDIT)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened
