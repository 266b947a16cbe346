"""Mistakes that users make, through the command line: exit code 2 and one line that says where, what was seen, what to do.

Those that only workers can meet are tested where they arise: tests/impact/test_gold.py, tests/triage, tests/ray.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from tests.support.pieces import PIECES, leave
from trace_ray.cli.app import main
from trace_ray.config import StorageConfig
from trace_ray.config.sources import conf_folder
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import __file__ as demo_file

MODELS = Path(demo_file).with_name("models")
FILES = ["-c", str(conf_folder() / "examples" / "demo.yaml"), "-c", str(conf_folder() / "policies" / "brevity.yaml")]
MODEL = [f"model.path='{MODELS / 'policy'}'", f"triage.judge.model='{MODELS / 'judge'}'"]
GIVEN = [
    "plan.measure=false",
    *(f"plan.{name}_tokens_s=1000" for name in ("judge", "answer", "forward", "train")),
]
LONG, LONGER = "word " * 60, "word " * 70
INVERT = {"chosen": LONG, "rejected": "short"}
PUNISH = {"chosen": LONG, "rejected": LONGER}
RETAIN = {"chosen": "short", "rejected": LONG}

Say = Callable[..., tuple[int, list[str]]]
"""Runs the command line: returns exit code and lines on standard error."""


def lines_of(*pairs: dict[str, str]) -> list[str]:
    return [json.dumps({"prompt": f"p {i}", **pair}) for i, pair in enumerate(pairs)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a corpus and held-out pairs that nothing is wrong with; no Ray, as in a new process."""
    ray.shutdown()  # another test's: a connected command may ask for what its machine lacks
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.jsonl", "held_out.jsonl"):
        Path(name).write_text("\n".join(lines_of(INVERT, RETAIN, PUNISH, INVERT)) + "\n")
    return tmp_path


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.argv", ["trace-ray", "--quiet", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().err.splitlines()

    return run


def given(command: str, *more: str) -> list[str]:
    corpus = ["corpus.paths=[pairs.jsonl]", "corpus.test_paths=[held_out.jsonl]"]
    return [command, *FILES, *corpus, *MODEL, *GIVEN, *more]


def assert_one_line(told: tuple[int, list[str]], said: str) -> None:
    code, lines = told
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("trace-ray: ")
    assert said in lines[0]


def test_without_a_mistake_there_is_none(say: Say) -> None:
    assert say(*given("plan")) == (0, [])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("realign.learing_rate=1", "did you mean 'learning_rate'"),
        ("realing.workers=1", "did you mean 'realign'"),
        ("realign..workers=1", "write it as key.path=value"),
        ("no_equals_sign", "write it as key.path=value"),
        ("realign=3", "realign is a section: give its settings, such as realign."),
        ("corpus.paths.0=pairs.jsonl", "the setting is of the other kind"),
        ("policy.clauses=[{id: a, rule: {max_word: 3}}]", "did you mean 'rule.max_words'"),
        ("policy.clauses=[{id: a, rule: {forbid: '('}}]", "policy.clauses[a].rule.forbid: (: not a regular expression"),
        ("policy.clauses=[]", "has no clause with a rule"),
        ("realign.workers=two", "realign.workers"),
        ("realign.workers=0", "realign.workers: 0: give at least 1"),
        ("realign.workers=null", "realign.workers"),
        ("realign.learning_rate=.inf", "realign.learning_rate: inf: give a finite number"),
        ("triage.threshold=1.5", "triage.threshold: 1.5: give a probability in (0, 1)"),
        ("triage.judge.backend=vlm", "did you mean 'vllm'"),
        ("corpus.format=hh_rlh", "did you mean 'hh_rlhf'"),
        ("triage.judge.engine={api_key: abc}", "looks like a secret"),
        ("corpus.paths=[]", "corpus.paths: empty"),
        ("corpus.paths=[nowhere/*.jsonl]", "corpus.paths: nowhere/*.jsonl: no such file"),
        ("corpus.paths=['ftp://host/pairs.jsonl']", "use a local path or s3://"),
        ("model.path=", "model.path: empty"),
        ("model.path=/nowhere/model", "model.path: /nowhere/model: no tokenizer there: no such folder"),
        ("triage.judge.model=/nowhere/judge", "triage.judge.model: /nowhere/judge: no tokenizer there: no such folder"),
        ("realign.use_gpu=true", "realign: 1 GPU: the cluster has 0: ask for less, or give"),
        ("realign.workers=900", "realign: 1800 CPU: the cluster has"),
        ("objective.PUNISH={loss: dpo, prefer: corrected, suppress: [chosen]}", "no response is corrected unless"),
        ("objective.INVERT={loss: npo, prefer: chosen, suppress: [rejected]}", "npo takes no preferred response"),
        ("plan.train_tokens_s=0", "give plan.train_tokens_s"),
        ("plan.train_tokens_s=-5", "plan.train_tokens_s: -5.0: give tokens a second, or 0"),
        ("plan.gpu_hour_price=-1", "plan.gpu_hour_price: -1.0: give a price of 0 or more"),
        ("plan.invert_share=1.5", "plan.invert_share: 1.5: give a share in [0, 1]"),
        (
            "plan.invert_share=0.95",
            "plan.invert_share: 0.95: with plan.punish_share = 0.1 they are more than all pairs",
        ),
        ("plan.cpus=-1", "plan.cpus: -1.0: give a number of cores"),
        ("plan.gpus=-1", "plan.gpus: -1.0: give a number of GPUs"),
        ("plan.sample_rows=0", "plan.sample_rows: 0: give at least 1 pair"),
        ("impact.max_retries=-2", "impact.max_retries: -2: give at least -1, which stands for retries without end"),
        ("realign.max_failures=-2", "realign.max_failures: -2: give at least -1"),
        ("triage.judge.endpoint.top_logprobs=0", "triage.judge.endpoint.top_logprobs: 0: give at least 1"),
        ("policy.clauses=[{id: a, rule: {max_words: -1}}]", "policy.clauses[a].rule.max_words: -1: give a number"),
        ("triage.judge.engine={max_model_len: abc}", "triage.judge.engine.max_model_len: abc: give a number of tokens"),
        ("evaluate.engine={max_model_len: 0}", "evaluate.engine.max_model_len: 0: give a number of tokens"),
        ("plan.manifest=nowhere.yaml", "plan.manifest: nowhere.yaml"),
        ("triage.audit_labels=nowhere.jsonl", "triage.audit_labels: nowhere.jsonl: no such file"),
        ("triage.audit_labels=pairs.jsonl", "triage.audit_labels: "),
        ("triage.audit_file=pairs.jsonl", "triage.audit_file: "),
        ("triage.review_labels=nowhere.jsonl", "triage.review_labels: nowhere.jsonl: no such file"),
        ("triage.verdict_store=pairs.jsonl", "triage.verdict_store: pairs.jsonl: a file is there: name a folder"),
        ("evaluate.prompt_file=nowhere.csv", "evaluate.prompt_file: nowhere.csv: no such file"),
        ("evaluate.attacks.prompts=nowhere.csv", "evaluate.attacks.prompts: nowhere.csv: no such file"),
        ("evaluate.attacks.templates=pairs.jsonl", "evaluate.attacks.templates: "),
    ],
)
def test_a_wrong_setting(say: Say, override: str, said: str) -> None:
    assert_one_line(say(*given("plan", override)), said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["triage.corrector=judge", "triage.judge.backend=rules"],
            "triage.corrector: judge: triage.judge.backend=rules",
        ),
        (["triage.gold_responses=nowhere.jsonl"], "triage.gold_responses: nowhere.jsonl: no such file"),
        (["triage.gold_responses=pairs.jsonl"], "triage.gold_responses: "),
    ],
)
def test_corrections_that_nobody_can_write(say: Say, more: list[str], said: str) -> None:
    assert_one_line(say(*given("plan", "triage.correct=true", *more)), said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("realign.trackers=[wandb]", "realign.trackers: wandb: pip install wandb"),
        ("evaluate.capability.tasks=[mmlu]", "evaluate.capability.tasks: ['mmlu']: lm-evaluation-harness is not"),
    ],
)
def test_packages_that_are_not_there(say: Say, monkeypatch: pytest.MonkeyPatch, override: str, said: str) -> None:
    find = importlib.util.find_spec
    absent = ("wandb", "lm_eval")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in absent else find(name, *more))
    assert_one_line(say(*given("plan", override)), said)


@pytest.mark.parametrize("setting", ["model.path", "triage.judge.model"])
def test_a_model_without_weights(say: Say, here: Path, setting: str) -> None:
    source = MODELS / ("policy" if setting == "model.path" else "judge")
    shutil.copytree(source, "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert_one_line(say(*given("plan", f"{setting}=bare")), f"{setting}: {here}/bare: no *.safetensors file there")


def test_plan_says_what_a_begun_run_would_refuse(say: Say, here: Path) -> None:
    run = Run(locate(str(here / "run"), StorageConfig()))
    run.triaged.begin({"corpus.holdout": 0.25})
    leave(run, PIECES["triage"])
    assert_one_line(say(*given("plan", "--run", "run")), "corpus.holdout: 0.1: this run was begun with 0.25")


def test_a_model_id_that_the_hub_does_not_have(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = say(*given("plan", "model.path=no-such/model"))
    assert_one_line(told, "model.path: no-such/model: no tokenizer there")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("realign: [1\n", "c.yaml: not yaml"),
        ("- realign\n", "c.yaml: list: a configuration file holds a mapping"),
        ("", "c.yaml: NoneType: a configuration file holds a mapping"),
        ("realign:\n", "c.yaml: None: realign is a section"),
        ("include: base.yaml\n", "give a list of files: include: [base.yaml]"),
        ("include: [base.yml]\n", "no such file (did you mean"),
        ("include: [c.yaml]\n", "the file includes itself"),
        ("realign: {zero_stages: 2}\n", "did you mean 'realign.zero_stage'"),
    ],
)
def test_a_wrong_file_of_settings(say: Say, text: str, said: str) -> None:
    Path("base.yaml").write_text("{}")
    Path("c.yaml").write_text(text)
    assert_one_line(say("plan", "-c", "c.yaml"), said)


def test_a_file_of_settings_that_is_not_there(say: Say) -> None:
    Path("mine.yaml").write_text("{}")
    assert_one_line(say("run", "-c", "mien.yaml", "--run", "run"), "no such file (did you mean 'mine.yaml'?)")


def test_a_method_that_trains_on_no_conflict_of_the_corpus(say: Say) -> None:
    Path("pairs.jsonl").write_text("".join(f"{line}\n" for line in lines_of(*[PUNISH, RETAIN] * 3)))
    wrong = given("plan", "--method", "naive_oracle_dpo")
    said = "objective.method: naive_oracle_dpo: it trains on no PUNISH, and no other conflict was found"
    assert_one_line(say(*wrong), said)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "corpus.paths: ['pairs.jsonl']: the file holds no row"),
        (["{broken", "[1, 2]"], "none of the first 2 rows is a pair, 1 as broken_json (row 1: {broken)"),
        (lines_of(*[RETAIN] * 4), "no sampled pair conflicts with the policy"),
        (lines_of(*[PUNISH] * 4), "4 pairs sampled: all of them PUNISH, so no pair holds a compliant response"),
        (lines_of(RETAIN), "1 pairs sampled: no sampled pair conflicts with the policy"),
    ],
    ids=["empty", "no pairs", "no conflict", "all PUNISH", "one pair"],
)
def test_a_wrong_corpus(say: Say, lines: list[str], said: str) -> None:
    Path("pairs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert_one_line(say(*given("plan", "corpus.test_paths=[]", "evaluate.prompt_file=held_out.jsonl")), said)


def test_junk_to_train_on_beside_good_held_out_pairs(say: Say) -> None:
    Path("pairs.jsonl").write_text("{broken\n[1, 2]\n")
    told = say(*given("plan"))
    assert_one_line(told, "corpus.paths: ['pairs.jsonl']: none of the first 2 rows is a pair")


def test_junk_to_hold_out_beside_good_pairs(say: Say) -> None:
    Path("held_out.jsonl").write_text("{broken\n[1, 2]\n")
    told = say(*given("plan"))
    assert_one_line(told, "corpus.test_paths: ['held_out.jsonl']: none of the first 2 rows is a pair")


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_nothing_is_held_out(say: Say, share: float) -> None:
    told = say(*given("plan", "corpus.test_paths=[]", f"corpus.holdout={share}"))
    assert_one_line(told, "evaluate.prompt_file")


def damaged_gzip() -> str:
    data = gzip.compress("\n".join(lines_of(*[INVERT] * 2000)).encode())
    Path("pairs.jsonl.gz").write_bytes(data[:-20])
    return "pairs.jsonl.gz"


def damaged_parquet() -> str:
    Path("pairs.parquet").write_bytes(b"PAR1 and then nonsense")
    return "pairs.parquet"


def other_columns() -> str:
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), "pairs.parquet")
    return "pairs.parquet"


def no_data_file() -> str:
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("none")
    return "folder"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (damaged_gzip, "cannot be read to its end"),
        (damaged_parquet, "cannot be read to its end"),
        (other_columns, "none of the first 1 rows is a pair, 1 as not_a_pair (row 1: one answer"),
        (other_columns, "columns seen: question, answer; wanted: chosen and rejected with a prompt"),
        (no_data_file, "no data file for train below it; looked for"),
    ],
)
def test_a_wrong_kind_of_corpus(say: Say, make: Callable[[], str], said: str) -> None:
    arguments = [f"corpus.paths=[{make()}]", "corpus.test_paths=[]", "evaluate.prompt_file=pairs.jsonl"]
    assert_one_line(say(*given("plan", *arguments)), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (given("plan", "--method", "trac"), "did you mean 'trace'"),
        (given("plan", "--run", "gs://bucket/run"), "use a local path or s3://bucket/prefix"),
        (given("plan", "--run", "s3://"), "name a bucket"),
        (given("plan", "--run", "pairs.jsonl"), "--run: pairs.jsonl: cannot be written to"),
        (given("run", "--run", "pairs.jsonl/run"), "cannot be written to"),
        (given("run", "--run", "/proc/nowhere/run"), "--run: /proc/nowhere/run: cannot be written to"),
        (given("run", "--run", "../run"), "holds no '..'"),
        (
            given("run", "--run", "run", "realign.use_gpu=true"),
            "realign: 1 GPU: the cluster has 0: ask for less, or name",
        ),
        (given("run", "--run", "run", "impact.num_cpus=900"), "impact: 900 CPU: the cluster has"),
        (
            given("run", "--run", "run", "triage.audit_labels=nowhere.jsonl"),
            "triage.audit_labels: nowhere.jsonl: no such",
        ),
        (given("impact", "--run", "run"), "run/triaged: not finished: run the stage that writes triaged/ first"),
        (given("report", "--run", "run"), "nothing to report yet: run `trace-ray triage` first"),
        (["audit", "--labels", "pairs.jsonl", "--run", "nowhere"], "--run: nowhere: no run there"),
        (["status", "--run", "run", "ray.local_cpus=1"], "only storage.key=value is read here"),
        (["export-pairs", "out", "--run", "nowhere"], "not finished: run the stage that writes scored/ first"),
        (["compare", "nowhere"], "not finished: run the stage that writes evaluation/ first"),
        (["rate", "score", "nowhere.csv", "--out", "out"], "nowhere.csv: no such file"),
        (["rate", "export", "nowhere", "--out", "out"], "nowhere: no run there"),
        (["import-gguf", "out", "--file", "pairs.jsonl"], "does not begin as a GGUF file does"),
        (["import-gguf", "out", "--package", "nosuch_package"], "no GGUF file installed"),
        (["import-gguf", "out", "--package", "no.such"], "--package: no.such: no GGUF file installed"),
        (["import-gguf", "out", "--package", ".such"], "--package: .such: no GGUF file installed"),
        (["init", "pairs.jsonl"], "is there already"),
    ],
    ids=lambda value: " ".join([value[0], *value[-2:]]) if isinstance(value, list) else "",
)
def test_a_wrong_command(say: Say, arguments: list[str], said: str) -> None:
    assert_one_line(say(*arguments), said)


@pytest.mark.parametrize("rest", [b"", b"\x03\0\0\0", b"\xff" * 40, b"\x03\0\0\0" + b"\0" * 16])
def test_a_gguf_file_that_was_cut_short(say: Say, rest: bytes) -> None:
    Path("cut.gguf").write_bytes(b"GGUF" + rest)
    assert_one_line(say("import-gguf", "out", "--file", "cut.gguf"), "cut.gguf: it cannot be read as a model")


def test_a_run_that_was_begun_from_other_inputs(say: Say, here: Path) -> None:
    run = Run(locate(str(here / "run"), StorageConfig()))
    run.triaged.begin({"policy": "another 0123"})
    leave(run, PIECES["triage"])
    assert_one_line(say(*given("triage", "--run", "run")), "this run was begun with")


def test_a_bucket_that_is_not_there(say: Say, s3: StorageConfig) -> None:
    reach = [f"storage.endpoint={s3.endpoint}", "storage.region=us-east-1"]
    assert_one_line(say(*given("run", "--run", "s3://no-such-bucket/run", *reach)), "there is no bucket no-such-bucket")
    told = say(*given("plan", "corpus.paths=['s3://no-such-bucket/pairs.jsonl']", *reach))
    assert_one_line(told, "corpus.paths: s3://no-such-bucket/pairs.jsonl: no such file")


def test_an_endpoint_that_does_not_answer(say: Say, s3: StorageConfig) -> None:
    reach = ["storage.endpoint=http://127.0.0.1:1", "storage.max_attempts=1"]
    assert_one_line(say("status", "--run", "s3://lake/run", *reach), "S3 does not answer")
