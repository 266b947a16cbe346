"""The rater's page: one HTML file that needs no server and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trace_ray.evaluate.rating.items import Item


def rater_page(items: Sequence[Item], questions: Mapping[str, str], policy: str, export_id: str) -> str:
    """Returns the page. It holds prompts and answers under letters, and nothing that tells which system wrote what.

    Args:
        questions: {column of the results: what raters are asked}; policy: shown beside them, may be empty.
        export_id: keeps the choices of different exports apart in the browser's storage and in the results' file name.
    """
    from jinja2 import Environment, FileSystemLoader

    shown = [{"id": item.item_id, "prompt": item.prompt, "answers": item.answers} for item in items]
    data = {"items": shown, "questions": dict(questions), "policy": policy, "export": export_id}
    # Inside a script element only "<" could end it; as an escape it cannot.
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return templates.get_template("rater.html.jinja").render(data=text)
