"""The page: sections as plain data, plots as inline SVG, put together by one template a section."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.look.style import environment
from trace_ray.pairs import Category
from trace_ray.report.names import plain_category, short_model
from trace_ray.report.sections.answers import answers_section
from trace_ray.report.sections.browser import browser_section
from trace_ray.report.sections.change import change_section
from trace_ray.report.sections.cost import cost_section, duration
from trace_ray.report.sections.decision import decision
from trace_ray.report.sections.funnel import funnel
from trace_ray.report.sections.gap import ALL, CATEGORY_MEANING, gap_section
from trace_ray.report.sections.headline import headline
from trace_ray.report.sections.impact import impact_section
from trace_ray.report.sections.judge import judge_section
from trace_ray.report.sections.lineage import lineage_section
from trace_ray.report.sections.policy import policy_section
from trace_ray.report.sections.problems import problems_section
from trace_ray.report.sections.training import training_section
from trace_ray.report.sections.trust import corpus_judge, one_sided
from trace_ray.report.sections.warnings import warnings
from trace_ray.report.sections.worse import worse_section
from trace_ray.report.survey.surveys import Over, here, surveys
from trace_ray.runs.artifacts import Run

TEMPLATES = Path(__file__).parent / "templates"


def render(run: Run, config: Config) -> str:
    """Returns the page as HTML, with no link to anything outside it; stages that are not done are left out.

    Raises: UserError where nothing is done yet.
    """
    return page_of(run, report_sections(run, config))


def page_of(run: Run, sections: dict[str, Any]) -> str:
    """Returns the page of sections that were read already. As ``render``."""
    if sections["gap"] is None and sections["judge"] is None:
        raise UserError("--run", run.place.uri, "nothing to report yet: run `trace-ray triage` first")
    return render_page(sections | {"pictures": pictures(sections)})


def report_sections(run: Run, config: Config, over: Over = here) -> dict[str, Any]:
    """Returns each section's data by name; None or empty where the run has none yet.

    Args:
        over: who looks at the run's rows.
    """
    found = _measured(run, config, over)
    return found | _concluded(run, config, found)


def _measured(run: Run, config: Config, over: Over) -> dict[str, Any]:
    """What the run's files hold, a section each."""
    report, objective = config.report, config.objective
    seen = surveys(run, config, over)
    gap = gap_section(run, seen)
    judge = judge_section(run, seen, config.triage, config.policy)
    change = change_section(run, report)
    return {
        "gap": gap,
        "judge": judge,
        "impact": impact_section(run, seen, objective),
        "training": training_section(run, objective, config.realign.epochs),
        "change": change,
        "answers": answers_section(run, config),
        "browser": browser_section(run, seen, config, judge.threshold if judge else config.triage.threshold),
        "cost": cost_section(run),
        "lineage": lineage_section(run, config),
        "problems": problems_section(run, seen, report.redact),
        "funnel": funnel(run, gap, seen),
        "policy": policy_section(run, seen, config),
        "worse": worse_section(run, config.policy) if change else None,
        "method": objective.method,
        "redact": report.redact,
    }


def _concluded(run: Run, config: Config, found: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the sections together: the first screen."""
    gap, judge, impact, change, worse = (found[name] for name in ("gap", "judge", "impact", "change", "worse"))
    told = {name: found[name] for name in ("gap", "judge", "impact", "change", "problems", "lineage", "training")}
    return {
        "warnings": warnings(**told, objective=config.objective),
        "cards": headline(gap, judge, impact, change, found["cost"], worse),
        "corpus_doubted": corpus_judge(judge).tone == "bad",
        "decision": decision(run, config, gap, judge, change, found["problems"], worse),
    }


def pictures(sections: dict[str, Any]) -> dict[str, Any]:
    """Returns the pictures by name, those whose data is there."""
    from trace_ray.report.plots.change import change_picture
    from trace_ray.report.plots.impact import impact_picture
    from trace_ray.report.plots.judge import certainty_picture, reliability_picture, roc_picture
    from trace_ray.report.plots.training import training_picture

    judge, impact = sections["judge"], sections["impact"]
    training, change = sections["training"], sections["change"]
    audit = judge.audit if judge else None
    drawn = {
        "certainty": certainty_picture(judge, judge.certainty) if judge and judge.certainty else None,
        "roc": roc_picture(audit) if audit and audit.roc else None,
        "reliability": reliability_picture(audit) if audit and audit.reliability else None,
        "impact": impact_picture(impact) if impact and impact.impacts else None,
        "training": training_picture(training) if training else None,
        "change": change_picture(change.by_category, "change") if change else None,
        "change_source": change_picture(change.by_source, "change-source") if change and change.by_source else None,
    }
    return {name: picture for name, picture in drawn.items() if picture}


def template(name: str) -> Any:
    """Returns one of the pages' templates."""
    filters = {"duration": duration, "short_model": short_model, "plain": plain_category, "one_sided": one_sided}
    return environment(TEMPLATES, **filters).get_template(name)


def render_page(sections: dict[str, Any]) -> str:
    """Returns the templates filled in; the only script allowed to run is the page's own."""
    from markupsafe import Markup

    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rendered: str = template("page.html.jinja").render(
        **sections,
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=digest,
        meaning=CATEGORY_MEANING,
        categories=list(Category),
        all_pairs=ALL,
    )
    return rendered
