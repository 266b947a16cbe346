"""The stages of a run by name, for those who call them from Python."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """A stage; each is also the word that the command line has for it."""

    TRIAGE = "triage"
    IMPACT = "impact"
    REALIGN = "realign"
    EXPORT = "export"
    EVALUATE = "evaluate"
    REPORT = "report"
