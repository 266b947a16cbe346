"""The look that all pages share: one style sheet, two colour schemes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_ray.look import theme

if TYPE_CHECKING:
    from jinja2 import Environment

STYLE = Path(__file__).with_name("page.css")


def style() -> str:
    """Returns the style sheet with the colours of both schemes; paper is light."""
    light, dark = theme.style_variables(theme.LIGHT), theme.style_variables(theme.DARK)
    schemes = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }} @media print {{ :root {{ {light} }} }}"
    return f":root {{ {light} }} {schemes} {STYLE.read_text(encoding='utf-8')}"


def environment(folder: Path, **filters: Any) -> Environment:
    """Returns the templates of a folder: every text is escaped, an unknown name is an error, ``look`` is the style."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= filters
    templates.globals["look"] = Markup(style())  # noqa: S704 - our own constants and file
    return templates
