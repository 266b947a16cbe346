"""What the documents say holds: commands parse and their settings load; names, files and links exist.

Nothing that a command starts is run. A command whose settings ask for GPUs says so in its comment, and one that needs a
cluster in its block; the other words of both are checked all the same.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
import shlex
import types
import typing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.exceptions import TyperException

from tests.support.documents import DOCUMENTS, ROOT, Command, commands, name_of, spans
from tests.support.outside import PROGRAMS as OUTSIDE
from tests.support.outside import check_outside
from trace_ray.cli.app import app
from trace_ray.cli.start import starter
from trace_ray.cluster.capacity import shortages
from trace_ray.config import Config
from trace_ray.config.check import check_needed, triage_judges
from trace_ray.config.load import load_config, load_storage, method_file
from trace_ray.config.sources import shipped_names
from trace_ray.errors import UserError
from trace_ray.plan.manifest import read_groups
from trace_ray.runs.artifacts import STAGES

FOLDERS = ("trace_ray", "clusters", "jobs", "conf", "tests")
MADE = re.compile(
    r"(runs|models)/|(exported|karpenter\.yaml|trace-ray\.yaml|my\.yaml|judged\.yaml|(labels|pairs)\.jsonl)$|\w+://"
)
"""Files that a command writes, or that its reader brings."""
FOREIGN = {"stage3_max_live_parameters", "ray_node_gpus_utilization", "autoscaler_pending_nodes", "auth_token"}
FOREIGN |= {"ray_actors", "ray_tasks", "ray_node_mem_used"}
"""Names of other projects."""
PROGRAMS = ("trace-ray", "make", "python", "pip", "ray", "export", *OUTSIDE)
CLUSTER = ("ray", *OUTSIDE)
ELSEWHERE = re.compile(
    r"(trace-ray|REPLACE-ME-REGISTRY/trace-ray):[\w.-]+$|[\w-]+/([\w-]+-(operator|plugin)|(Llama|Mistral|gemma)-\S+)$"
    r"|trace-ray/|job/|roles/|[\d.]+/\d+$|.*[$=*:]"
)
"""Words with a slash that name no file of ours: images, charts, models, labels, networks, what a shell makes of a word."""
COMMAND: Any = typer.main.get_command(app)
DOCUMENTED = [pytest.param(c, id=f"{name_of(path)}: {c.text[:60]}") for path in DOCUMENTS for c in commands(path)]
WRITTEN = {"trace-ray.yaml": "gpu", "my.yaml": "rules", "judged.yaml": "judge"}
"""What the documents call the configurations that `trace-ray init` writes."""
Words = list[str]


def check_command(command: Command) -> None:
    """Raises AssertionError, or the command line's own error, where a command is not what it claims."""
    words = shlex.split(command.text.removesuffix("&"))
    program = words[0].removeprefix(".venv/bin/")
    assert program in PROGRAMS, f"{program} is none of {PROGRAMS}"
    needs = ("needs a cluster", "needs an account")
    assert program not in CLUSTER or any(need in command.about for need in needs), (
        "say that it needs a cluster, or needs an account"
    )
    for word in words[1:]:
        named = word.partition("=")[2] if word.startswith("-") else word
        if re.fullmatch(r"[\w./-]+/[\w./-]+|[\w-]+\.(yaml|py|jsonl|csv)", named) and not named.startswith("svc/"):
            there = MADE.match(named) or (ROOT / named).exists() or ELSEWHERE.match(named) or named in shipped_names()
            assert there, f"{named} is not there"
    match program:
        case "make":
            assert set(words[1:]) <= make_targets(), words
        case "trace-ray":
            check_trace_ray(words[1:], command.about)
        case "python":
            check_python(words[1:], command.about)
        case "pip":
            check_extras(words[-1])
        case "ray":
            check_ray(words[1:], command.about)
        case _ if program in OUTSIDE:
            check_outside(words)
            check_manifest_names(words)
        case "export":
            check_export(command, words)


@functools.cache
def make_targets() -> set[str]:
    return set(re.findall(r"(?m)^(\w[\w-]*):", (ROOT / "Makefile").read_text()))


def check_export(command: Command, words: Words) -> None:
    """What a variable is made of is a command too."""
    assert all(re.search(r"(KEY|TOKEN)=(?!\.\.\.$)", word) is None for word in words), "no secret here"
    for asked in re.findall(r"\$\((.*)\)", command.text):
        check_command(Command(asked, command.about))


def parse(words: Sequence[str]) -> tuple[Words, dict[str, Any]]:
    """Returns the names of the subcommand and its parsed arguments; Typer's own parser, nothing is called."""
    command = COMMAND
    context, names, rest = None, [], list(words)
    while hasattr(command, "commands"):
        context = command.make_context(command.name or "trace-ray", rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        names.append(name)
    return names, command.make_context(names[-1], rest, parent=context).params


def check_trace_ray(words: Sequence[str], about: str) -> None:
    (name, *_), given = parse(words)
    overrides = given.get("overrides") or []
    if name == "decide":  # on top of the run's own
        loaded((ROOT / "conf/examples/demo.yaml",), ("corpus.paths=[x]", "model.path=x", *overrides))
        return
    if name not in ("plan", "run", "demo", *STAGES):
        reached(tuple(overrides))
        return
    files = [starter(WRITTEN[file]) if file in WRITTEN else ROOT / file for file in given.get("config") or ()]
    if name == "demo":
        files, overrides = [ROOT / "conf/examples/demo.yaml"], ["corpus.paths=[x]", "model.path=x", *overrides]
    if name in STAGES and not files:  # the run's own
        reached(tuple(overrides))
        return
    config = loaded(tuple(files), tuple(overrides), given["method"])
    if config.plan.manifest and not MADE.match(config.plan.manifest):  # else tests/clusters builds it and checks it
        assert list(shortages(config, read_groups(str(ROOT / config.plan.manifest)))) == []
    stages = [name] if name in STAGES else list(STAGES)
    if name != "demo":
        check_needed(config, stages)
    assert not asks_for_gpus(config, stages) or "GPU" in about, "its settings ask for a GPU: say so in its comment"


loaded, reached = functools.cache(load_config), functools.cache(load_storage)
"""Commands of several documents share their settings, and a load costs a tenth of a second."""


def asks_for_gpus(config: Config, stages: Sequence[str]) -> bool:
    judges = triage_judges(config.triage) | {"evaluate.judge": config.evaluate.judge}
    asked = [(name.partition(".")[0], judge.gpus) for name, judge in judges.items()]
    asked += [("impact", config.impact.gpus), ("evaluate", config.evaluate.gpus)]
    asked += [("realign", config.realign.gpus)]
    return any(gpus for stage, gpus in asked if stage in stages)


def check_python(words: Sequence[str], about: str) -> None:
    """A module or script of ours exists and knows its options; a job is the command of its name."""
    script = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
    if script == "pytest.py":
        return
    script = script if (ROOT / script).exists() else script.replace(".py", "/__main__.py")
    source = (ROOT / script).read_text()
    unknown = [w for w in words[1:] if w.startswith("--") and f'"{w.partition("=")[0]}"' not in source]
    if script.startswith("jobs/"):
        check_trace_ray([Path(script).stem, *words[1:]], about)
    else:
        assert not unknown, f"{script} knows no {unknown}"


def check_extras(requirement: str) -> None:
    extras = set(re.findall(r"[\w-]+", requirement.partition("[")[2]))
    known = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert extras <= set(re.findall(r"(?m)^(\w+) = \[", known)), requirement


def check_ray(words: Sequence[str], about: str) -> None:
    """Options of ``ray job submit`` are those that a test on a real cluster uses."""
    assert list(words[:2]) == ["job", "submit"], words
    mine, entry = words[2 : words.index("--")], words[words.index("--") + 1 :]
    real = (ROOT / "tests/jobs/test_cluster.py").read_text()
    assert all(f'"{word}"' in real for word in mine if word.startswith("--")), mine
    check_command(Command(shlex.join(entry), about))


def check_manifest_names(words: Sequence[str]) -> None:
    """Services, secrets and build arguments are those of the manifests and the image."""
    manifests = "\n".join(path.read_text() for path in sorted((ROOT / "clusters").glob("*/*/*.yaml")))
    for flag, word in pairwise(words):
        if flag == "-n" and words[0] == "kubectl":
            assert f"namespace: {word}\n" in manifests
        if flag == "--build-arg":
            assert f"ARG {word.partition('=')[0]}" in (ROOT / "clusters/Dockerfile").read_text()
        if flag == "generic":
            assert re.search(rf"(secretName|name): {word}[,}}\n]", manifests), word
        if flag == "port-forward" and word.startswith("svc/"):
            assert f"name: {word.removeprefix('svc/').removesuffix('-head-svc')}\n" in manifests


def test_every_document_with_commands_is_read() -> None:
    found = {name_of(path) for path in DOCUMENTS if list(commands(path))}
    folders = ("", "conf/", "jobs/", "clusters/", "trace_ray/study/")
    assert found == {f"{folder}README.md" for folder in folders} | {"CONTRIBUTING.md"}
    every = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")} | set(ROOT.glob("*.md"))
    apart = {
        ROOT / "CHANGELOG.md",
        ROOT / "trace_ray/corpus/formats/README.md",
    }  # history; a page with a test of its own
    assert set(DOCUMENTS) == every - apart, "a page whose commands nobody looks at"


def test_the_front_page_is_one_that_is_read() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_every_page_is_found_from_the_front_page() -> None:
    front = (ROOT / "README.md").read_text()
    for path in [*DOCUMENTS[1:], ROOT / "CHANGELOG.md", ROOT / "trace_ray/corpus/formats/README.md"]:
        assert f"]({name_of(path)}" in front, f"{name_of(path)} is linked from nowhere"


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_command_is_what_it_claims(command: Command) -> None:
    check_command(command)


WRONG = {
    "trace-ray run -c conf/examples/demo.yaml --run runs/x realign.learing_rate=1": "did you mean 'learning_rate'",
    "trace-ray run -c conf/examples/demo.yaml --run runs/x --method tracee": "did you mean 'trace'",
    "trace-ray run -c conf/policies/brevity.yaml --run runs/x": "corpus.paths: empty",
    "trace-ray run -c conf/policies/brevty.yaml --run runs/x": "is not there",
    "trace-ray run -c trace-ray.yaml": "Missing parameter: run",
    "trace-ray run -c trace-ray.yaml --run runs/x": "GPU",
    "trace-ray rum --run runs/x": "rum",
    "trace-ray rate scores a.csv": "is not there",
    "trace-ray status --run runs/x storage.regio=x": "did you mean 'region'",
    "make benchmarks": "benchmarks",
    "kubectl apply -k clusters/overlays/eks": "needs a cluster",
    "export VPC=$(aws eks describe-cluster --name x)": "needs a cluster",
    ".venv/bin/python tests/bench/scale.py --row 5": "--row",
    "pip install -e '.[cpus]'": "cpus",
    "trace-ray plan -c conf/examples/demo.yaml plan.manifest=clusters/none.yaml": "No such file",
    "tracy-ray run": "tracy-ray",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_command_is_found(text: str) -> None:
    with pytest.raises((AssertionError, UserError, TyperException), match=re.escape(WRONG[text])):
        check_command(Command(text, ""))


def setting(name: str) -> dataclasses.Field[Any] | None:
    """Returns the field of a dotted setting; None for a key below a free mapping. Raises AssertionError for no setting."""
    node: Any = Config
    field = None
    for part in name.split("."):
        if node is dict:
            return None
        known = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
        found = fnmatch.filter(known, part)
        assert found, f"{name}: no {part} among {', '.join(known)}"
        field = known[found[0]]
        hint = typing.get_type_hints(node)[field.name]
        inner = [hint, *(typing.get_args(hint) if typing.get_origin(hint) in (list, types.UnionType) else ())]
        node = next((kind for kind in inner if dataclasses.is_dataclass(kind)), typing.get_origin(hint))
    return field


def check_span(span: str, folder: Path) -> None:
    """Raises AssertionError for code within a line that names what is not there."""
    sections = "|".join(f.name for f in dataclasses.fields(Config))
    ending = r"(?!.*\.(py|html|yaml|json|jsonl|parquet)$)"
    dotted = re.fullmatch(rf"{ending}((?:{sections})(?:\.[\w*]+)+)(?:=(.*))?", span)
    if dotted:
        field = setting(dotted[2])
        choices = field.metadata.get("choices") if field else None
        plugs = bool(field and "plugins" in field.metadata and ":" in str(dotted[3]))
        assert dotted[3] is None or not choices or dotted[3] in choices or plugs, f"{span}: one of {choices}"
    if re.fullmatch(r"\w+: \w+", span):
        word = span.partition(":")[0]
        assert word in words_of_the_code(), f"{span}: no {word} anywhere"
    if span.startswith("make "):
        assert span.split()[1] in make_targets(), span
    if span.startswith(("trace-ray ", "-c ", "--method ")):
        check_words(shlex.split(span))
    if re.fullmatch(r"[\w.*-]+/[\w./*-]*", span) and ((ROOT / span).parts[len(ROOT.parts)] in FOLDERS):
        assert list(ROOT.glob(span.rstrip("/"))), f"{span} is not there"
    if re.fullmatch(r"[\w*-]+\.(py|sh|md|toml|yaml)", span) and not MADE.match(span):
        assert list(folder.glob(span)) or fnmatch.filter(file_names(), span), f"no file {span}"
    for word in re.findall(r"(?<![\w/.-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w/])", span):
        plain = word.removeprefix("ray_trace_ray_").removesuffix("_total")
        assert plain in words_of_the_code() or word in FOREIGN, f"{span}: no {word} anywhere"


def check_words(words: Words) -> None:
    """A command within a line may leave things out; what it names exists."""
    command = COMMAND
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif hasattr(command, "commands") and word not in ("trace-ray", "-c", "--method") and len(words) > 2:
            raise AssertionError(f"{word} is no command")
        elif word.startswith("-") and words[0] == "trace-ray":
            assert word == "-h" or any(word in option.opts for option in command.params), f"{words}: no option {word}"
        if word == "-c" and "/" in following:
            mounted = following.startswith(("/etc/trace-ray/", "s3://"))
            assert mounted or following in shipped_names() or (ROOT / following).exists(), following
        if word == "--method" and following.islower():
            method_file(following)


@functools.cache
def words_of_the_code() -> set[str]:
    kinds = (".py", ".yaml", ".sh")
    files = [
        p
        for folder in FOLDERS
        for p in (ROOT / folder).rglob("*")
        if p.suffix in kinds and p.name != Path(__file__).name
    ]
    return set(
        re.findall(r"\w+", "\n".join(p.read_text() for p in [*files, ROOT / "pyproject.toml", ROOT / "Makefile"]))
    )


@functools.cache
def file_names() -> set[str]:
    return {p.name for folder in FOLDERS for p in (ROOT / folder).rglob("*.*")} | {p.name for p in ROOT.glob("*.*")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_names_in_code_spans_exist(path: Path) -> None:
    for span in spans(path):
        check_span(span, path.parent)


@pytest.mark.parametrize(
    "span",
    [
        "realign.micro_token",
        "report.redact=hidden",
        "triage.judge.endpoint.url",
        "conf/judges/none.yaml",
        "trace-ray compare RUN... --htm FILE",
        "trace-ray rate exports",
        "make benches",
        "build_clusters.py",
        "whole_checkpoint: true",
        "pairs_judge_total{category}",
        "--method no_kll",
    ],
)
def test_a_wrong_name_is_found(span: str) -> None:
    with pytest.raises((AssertionError, UserError)):
        check_span(span, ROOT)


@functools.cache
def anchors(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
