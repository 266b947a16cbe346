"""The questions of a policy owner and where on the page each is answered: CSS selectors, and what stands there.

`python -m tests.report.questions REPORT.html` prints question, selector and text, read in headless Chromium.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.report.chromium import Chromium

POLICY, WORSE = "section[aria-labelledby=policy]", "section[aria-labelledby=worse]"
QUESTIONS = {
    "What changed in the policy?": (
        "header p.muted",
        f"{POLICY} > p",
        f"{POLICY} > blockquote.diff",
        ".clauses tbody tr",
    ),
    "What of the old data conflicts, and why?": (
        ".cards a[href='#gap']",
        ".funnel tr.sum",
        ".clauses .example",
        "#pair-list > li[data-category=INVERT] article",
    ),
    "Can the judge be trusted?": (".cards a[href='#judge']", ".checks a[href='#judge']"),
    "Did the model change as wanted?": (
        ".cards a[href='#change']",
        ".checks li:nth-child(4)",
        "section[aria-labelledby=change] tbody tr",
    ),
    "What got worse?": (".cards a[href='#worse']", f"{WORSE} > h2 + p", f"{WORSE} tbody tr"),
    "What to do now?": (".decision .verdict-line", ".decision .command"),
}
_ALL = "JSON.stringify([...document.querySelectorAll({})].map((e) => e.textContent.replace(/\\s+/g, ' ').trim()))"


def answers(browser: Chromium) -> Iterator[tuple[str, str, list[str]]]:
    """Yields (question, selector, texts of what it finds) on the page that is open."""
    for question, selectors in QUESTIONS.items():
        for selector in selectors:
            yield question, selector, json.loads(browser.ask(_ALL.format(json.dumps(selector))))


def main(page: Path) -> None:
    with Chromium() as browser:
        browser.open(page.resolve())
        asked = ""
        for question, selector, texts in answers(browser):
            if question != asked:
                print(f"\n{question}")
                asked = question
            for text in texts[:3] or ["(nothing)"]:
                print(f"  {selector}: {text[:240]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
