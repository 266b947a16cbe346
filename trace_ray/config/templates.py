"""Chat templates in a configuration: files become their text, and a template that writes the date is told the run's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trace_ray.config import Config, JudgeConfig, ModelConfig
from trace_ray.errors import UserError

Asking = TypeVar("Asking", ModelConfig, JudgeConfig)


def _changed(config: Config, change: Callable[[str, str, str], tuple[str, str]]) -> Config:
    """Returns the configuration with each section's template and date changed; ``change`` is told the section's name."""

    def changed(name: str, section: Asking) -> Asking:
        template, date = change(name, section.chat_template, section.chat_template_date)
        return replace(section, chat_template=template, chat_template_date=date)

    triage, evaluate = config.triage, config.evaluate
    judges = {name: getattr(triage, name) for name in ("judge", "first_judge", "second_judge", "corrector_judge")}
    found = {name: changed(f"triage.{name}", judge) for name, judge in judges.items() if judge is not None}
    panel = [changed(f"evaluate.panel[{i}]", judge) for i, judge in enumerate(evaluate.panel)]
    return replace(
        config,
        model=changed("model", config.model),
        triage=replace(triage, **found),
        evaluate=replace(evaluate, judge=changed("evaluate.judge", evaluate.judge), panel=panel),
    )


def with_template_texts(config: Config) -> Config:
    """Returns the configuration with the text of every template that is named by its file.

    Raises: UserError for a file that is not text.
    """

    def read(name: str, template: str, date: str) -> tuple[str, str]:
        if not template or "{" in template or "\n" in template or not Path(template).is_file():
            return template, date
        try:
            return Path(template).read_text(encoding="utf-8"), date
        except UnicodeDecodeError:
            raise UserError(f"{name}.chat_template", template, "no UTF-8 text; name a file of jinja") from None

    return _changed(config, read)


def template_dates(config: Config) -> dict[str, str]:
    """Returns {section: its date}."""
    dates: dict[str, str] = {}

    def note(name: str, template: str, date: str) -> tuple[str, str]:
        dates[name] = date
        return template, date

    _changed(config, note)
    return dates


def dated(config: Config, before: Config | None, today: str) -> Config:
    """Returns the configuration with a date in every section: its own, else that of the run so far, else today's.

    Args:
        before: the configuration that the run keeps, None of a new one.
        today: YYYY-MM-DD.
    """
    known = template_dates(before) if before is not None else {}
    return _changed(config, lambda name, template, date: (template, date or known.get(name) or today))
