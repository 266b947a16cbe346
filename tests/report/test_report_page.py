"""The page as HTML, without a browser: nothing breaks out, nothing is fetched, everyone can read it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tests.report.made_run import AUDIT, HOSTILE, MadeRun, config_of, text_of
from trace_ray.look import theme
from trace_ray.look.style import STYLE
from trace_ray.report.page import render

VOID = {"meta", "br", "hr", "input", "img", "link", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.stack: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(f"{tag}.{dict(attrs).get('class') or ''}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack, f"</{tag}> closes nothing"
            assert self.stack.pop().split(".")[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.stack), data))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def inside(self, kind: str) -> str:
        return "".join(text for stack, text in self.texts if any(tag == kind for tag in stack))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(MadeRun(tmp_path_factory.mktemp("run")).everything(AUDIT), config_of())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_elements_are_well_nested(page: Page) -> None:
    assert page.stack == []
    assert len(page.all("main")) == 1


def test_hostile_text_stays_text(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert not page.all("img", "iframe", "object", "embed", "base", "link", "form")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    shown = page.inside("div.text")
    for row in (10, 11, 12):
        assert text_of("prompt", row).replace("\x00", "") in shown.replace("\x00", "").replace("\ufffd", "")
    for hostile in HOSTILE:
        assert hostile.split("\x00")[0] in shown
    assert len(page.all("h1")) == 1


def test_only_our_script_may_run(html: str, page: Page) -> None:
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_nothing_is_fetched_and_every_link_leads_somewhere(html: str, page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert [name for name, number in Counter(ids).items() if number > 1] == []
    for _, attributes in page.elements:
        for name in ("href", "xlink:href", "src", "action", "data", "srcset", "poster"):
            if name in attributes:
                target = attributes[name] or ""
                assert target.startswith("#"), target
                assert target[1:] in ids, target
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    for name in re.findall(r"url\(#([^)]+)\)", html):
        assert name in ids


def test_headings_step_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_everything_has_a_name(html: str, page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert page.inside("title.")
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") in ("img", "region"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    labelled = re.findall(r"<label>[^<]+<(input|select)", html)
    assert len(labelled) == len(page.all("input", "select")) == 14
    assert all(a.get("aria-label") for a in page.all("button") if "data-filter" in a)
    assert all("positive" not in a and int(a["tabindex"] or 0) <= 0 for _, a in page.elements if "tabindex" in a)
    assert all(a.get("aria-hidden") == "true" for a in page.all("svg"))


def test_colours_contrast_in_light_and_dark() -> None:
    assert set(theme.LIGHT) == set(theme.DARK)
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for colours in (theme.LIGHT, theme.DARK):
        for text in theme.TEXT_ON_GROUND:
            for ground in ("ground", "card"):
                assert theme.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for fill in theme.FILLS:
            assert theme.contrast(colours["on-fill"], colours[fill]) >= 4.5, fill
            assert theme.contrast(colours[fill], colours["ground"]) >= 3.0, fill
        for line in ("base", "realigned"):
            assert theme.contrast(colours[line], colours["ground"]) >= 3.0, line


def test_every_colour_follows_the_theme(html: str) -> None:
    outside = html.split("</style>")[1].split("</main>", maxsplit=1)[0]
    assert set(re.findall(r"#[0-9a-f]{6}\b(?=[;\"' ])", outside)) <= {"#000000"}
    used = set(re.findall(r"var\(--([a-z-]+)\)", html + STYLE.read_text()))
    assert used <= set(theme.LIGHT)


def test_hide_puts_every_text_behind_a_click(tmp_path: Path) -> None:
    page = Page(render(MadeRun(tmp_path).everything(AUDIT), config_of("report.redact=hide")))
    secrets = [stack for stack, text in page.texts if "SECRET" in text]
    assert secrets
    assert all("details.redacted" in stack for stack in secrets)
    assert not [a for a in page.all("details") if a.get("class") == "redacted" and "open" in a]


def test_omit_leaves_every_text_out_of_the_file(tmp_path: Path) -> None:
    html = render(MadeRun(tmp_path).everything(AUDIT), config_of("report.redact=omit"))
    assert "SECRET" not in html
    assert "Text left out" in html
    assert 'id="pairs"' in html


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("chosen: endpoint 429: {row} SECRET prompt; rejected: SECRET", "endpoint 429"),
        ("chosen: endpoint {row}: SECRET prompt", "more kinds"),
    ],
)
def test_an_endpoints_words_are_text_and_few(tmp_path: Path, error: str, shown: str) -> None:
    """Its answer may repeat the prompt and differs for each request."""
    made = MadeRun(tmp_path, rows=400, judge_error=error, answer_error="endpoint 500: SECRET answer")
    html = render(made.everything(AUDIT), config_of("report.redact=omit"))
    assert "SECRET" not in html
    assert shown in html
    assert "No verdict: endpoint 500" in html
    problems = html.partition('id="problems"')[2].partition("</section>")[0]
    assert problems.count("<li") <= 4 + 11
    page = Page(render(made.run, config_of("report.redact=hide")))
    assert all("details.redacted" in stack for stack, text in page.texts if "SECRET" in text)


def test_ten_thousand_pairs_make_less_than_5_mb(tmp_path: Path) -> None:
    sources = tuple(f"source {i} " + "long " * 30 for i in range(1500))
    made = MadeRun(tmp_path, rows=10_000, repeat=60, sources=sources, prompts=1500, answer_sources=sources)
    html = render(made.everything(AUDIT), config_of())
    assert len(html.encode()) < 5_000_000
    assert config_of().report.sample < html.count('<li id="pair-') <= 100 + config_of().report.sample
    assert html.count('<li id="answer-') == config_of().report.examples
    assert "1,488 more in" in html
