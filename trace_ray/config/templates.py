"""Templates in a configuration: files become their text, and a chat template that writes the date is told the run's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trace_ray.config import Config, JudgeConfig
from trace_ray.config.gpus import JUDGES
from trace_ray.errors import UserError


def _changed(config: Config, change: Callable[[str, Any], Any]) -> Config:
    """Returns the configuration with each section that has a chat template changed; ``change`` is told the section's name."""
    triage, evaluate = config.triage, config.evaluate
    judges = {name: getattr(triage, name) for name in JUDGES}
    found = {name: change(f"triage.{name}", judge) for name, judge in judges.items() if judge is not None}
    panel = [change(f"evaluate.panel[{i}]", judge) for i, judge in enumerate(evaluate.panel)]
    return replace(
        config,
        model=change("model", config.model),
        triage=replace(triage, **found),
        evaluate=replace(evaluate, judge=change("evaluate.judge", evaluate.judge), panel=panel),
    )


def with_template_texts(config: Config) -> Config:
    """Returns the configuration with the text of every template that is named by its file.

    Raises: UserError for a file that is not text.
    """

    def read(name: str, section: Any) -> Any:
        section = replace(section, chat_template=_text(f"{name}.chat_template", section.chat_template))
        if not isinstance(section, JudgeConfig):
            return section
        template = _text(f"{name}.prompt.template", section.prompt.template)
        return replace(section, prompt=replace(section.prompt, template=template))

    return _changed(config, read)


def _text(name: str, template: str) -> str:
    if not template or "{" in template or "\n" in template or not Path(template).is_file():
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(name, template, "no UTF-8 text; name a file of the template") from None


def template_dates(config: Config) -> dict[str, str]:
    """Returns {section: its date}."""
    dates: dict[str, str] = {}

    def note(name: str, section: Any) -> Any:
        dates[name] = section.chat_template_date
        return section

    _changed(config, note)
    return dates


def dated(config: Config, before: Config | None, today: str) -> Config:
    """Returns the configuration with a date in every section: its own, else that of the run so far, else today's.

    Args:
        before: the configuration that the run keeps, None of a new one.
        today: YYYY-MM-DD.
    """
    known = template_dates(before) if before is not None else {}

    def date(name: str, section: Any) -> Any:
        return replace(section, chat_template_date=section.chat_template_date or known.get(name) or today)

    return _changed(config, date)
