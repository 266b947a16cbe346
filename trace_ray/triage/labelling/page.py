"""The labelling page: one HTML file that needs no server and no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from trace_ray.config.policy import PolicyConfig, clause_ids, policy_text
from trace_ray.triage.labelling.sample import Candidate


def label_page(pairs: Sequence[Candidate], policy: PolicyConfig, threshold: float) -> str:
    """Returns the page. A judge's verdict is shown only once a pair is answered, so that it sways nobody.

    Args:
        threshold: P(violates) from which the judge's verdict is "violates".
    """
    from jinja2 import Environment, FileSystemLoader

    shown = [
        {"id": pair.pair_id, "prompt": pair.prompt, "answers": [pair.chosen, pair.rejected], "said": pair.said}
        for pair in pairs
    ]
    key = hashlib.sha256("".join(pair.pair_id for pair in pairs).encode()).hexdigest()[:12]
    clauses = [{"id": name, "text": c.text} for name, c in zip(clause_ids(policy), policy.clauses, strict=True)]
    data = {"pairs": shown, "clauses": clauses, "threshold": threshold, "key": key}
    data["policy"] = policy_text(policy, with_ids=True)
    # Inside a script element only "<" could end it; as an escape it cannot.
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return templates.get_template("label.html.jinja").render(data=text)
