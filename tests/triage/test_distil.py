"""The first judge that is made from the dear one: what it learns, where it may decide, and what that saves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.load import load_config
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.errors import UserError
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.distilled import DistilledJudge
from trace_ray.judges.rules_judge import RulesJudge
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.oracle import violates
from trace_ray.synth.world import generate
from trace_ray.triage.calibrate import upper_bound
from trace_ray.triage.distil import choose_sure, teach, teach_cascade
from trace_ray.triage.stage import run_triage

SETTINGS = TriageConfig(distil_agreement=0.97, confidence=0.9)


def world(pairs: int) -> list[tuple[str, str, float]]:
    """(Request, response, the oracle's verdict) of the synthetic world."""
    rows = generate(seed=5).train[:pairs]
    texts = [(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
    return [(request, response, float(violates(request, response))) for request, response in texts]


def test_of_the_synthetic_world_most_dear_calls_are_saved_at_the_agreement_asked_for(tmp_path: Path) -> None:
    asked = list(dict.fromkeys(world(2000)))
    random.Random(0).shuffle(asked)  # a run's first look is drawn by a hash too
    taught, fresh = asked[:1400], asked[1400:]
    dear = RulesJudge(PolicyConfig())
    cascade = CascadeJudge(DistilledJudge(PolicyConfig(), JudgeConfig()), dear, 0.1, 0.9)
    teach_cascade(cascade, taught, SETTINGS, locate(str(tmp_path / "taught.json"), StorageConfig()))
    said = json.loads((tmp_path / "taught.json").read_text())
    opinions = cascade.first.opinions([a for a, _, _ in fresh], [b for _, b, _ in fresh])
    both = zip(opinions, fresh, strict=True)
    sure = [
        ((opinion.p_violates or 0.0) >= 0.5) == (truth == 1)
        for opinion, (_, _, truth) in both
        if not cascade._unsure(opinion)
    ]
    agreement = np.mean(sure)
    assert said["at_least"] >= 0.97
    assert len(sure) / len(fresh) > 0.5, f"{len(sure) / len(fresh):.3f} saved"
    assert len(sure) / len(fresh) == pytest.approx(said["sure"], abs=0.2)
    # Of fresh responses: what is promised, less three standard deviations of so many draws.
    assert agreement >= 0.97 - 3 * np.sqrt(0.97 * 0.03 / len(sure))


def test_the_band_is_the_narrowest_whose_verdicts_agree_and_none_where_there_are_too_few() -> None:
    rng = np.random.default_rng(0)
    distance, bands = rng.random(4000) / 2, np.linspace(0.49, 0.0, 50)
    agrees = rng.random(4000) < 0.6 + 0.8 * distance  # sure of itself = right
    sure = distance[None, :] > bands[:, None]
    kinds = np.arange(4000) % 2 == 0
    at = choose_sure(sure, agrees, kinds, 0.9, 0.9)
    assert at is not None
    bounds = [upper_bound(int((band & ~agrees).sum()), int(band.sum()), 0.9) for band in sure]
    assert bounds[at] <= 0.1 < bounds[at + 1]
    assert 0.6 + 0.8 * bands[at] == pytest.approx(0.8, abs=0.1)  # half-way up, so that the mean beyond it is 0.9
    assert choose_sure(sure[:, :15], agrees[:15], kinds[:15], 0.9, 0.9) is None
    assert choose_sure(sure, ~agrees, kinds, 0.9, 0.9) is None


def test_the_stated_agreement_holds_on_fresh_responses() -> None:
    """Over 60 draws the true agreement is below the stated one in at most 10 % (99 % sure: 12 of 60)."""
    rng, missed, bands = np.random.default_rng(1), 0, np.linspace(0.49, 0.0, 50)
    for _ in range(60):
        distance = rng.random(1000) / 2
        agrees = rng.random(1000) < 0.6 + 0.8 * distance
        kinds = rng.random(1000) < 0.5
        at = choose_sure(distance[None, :] > bands[:, None], agrees, kinds, 0.9, 0.9)
        missed += at is not None and 0.6 + 0.8 * (bands[at] + 0.5) / 2 < 0.9
    assert missed <= 12


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_a_student_decides_by_the_dear_judges_threshold(threshold: float) -> None:
    asked = [(request, response, 0.85 if p else 0.1) for request, response, p in world(600)]
    settings = TriageConfig(threshold=threshold, distil_agreement=0.9)
    requests, responses, said = [a for a, _, _ in asked], [b for _, b, _ in asked], [p for _, _, p in asked]
    student, taught = teach({(a, b): p for a, b, p in asked}, settings)
    assert student is not None
    assert taught.low < threshold < taught.high or taught.low == taught.high == pytest.approx(threshold)
    p = student.p_violates(requests[::2], responses[::2])
    assert np.mean((p >= threshold) == (np.array(said[::2]) >= threshold)) > 0.95


def test_one_sided_verdicts_teach_nothing_and_everything_goes_to_the_dear_judge(tmp_path: Path) -> None:
    asked = [(request, response, 0.1) for request, response, _ in world(100)]
    cascade = CascadeJudge(DistilledJudge(PolicyConfig(), JudgeConfig()), RulesJudge(PolicyConfig()), 0.1, 0.9)
    teach_cascade(cascade, asked, SETTINGS, locate(str(tmp_path / "taught.json"), StorageConfig()))
    assert all(map(cascade._unsure, cascade.first.opinions(["q"], ["r"])))
    assert json.loads((tmp_path / "taught.json").read_text())["agreement"] is None


def test_where_violations_are_rare_finding_none_is_no_agreement() -> None:
    """Every verdict the same would be right on 97 of 100, and lose what the judge is asked for."""
    asked = {(f"q{i}", f"some {'odd' if i % 33 == 0 else 'plain'} words {i}"): float(i % 33 == 0) for i in range(1500)}
    student, taught = teach(asked, TriageConfig(distil_agreement=0.95, confidence=0.95))
    assert student is None
    assert taught.violating < taught.needed == 59
    assert upper_bound(0, taught.needed, 0.95) <= 0.05 < upper_bound(0, taught.needed - 1, 0.95)
    student, taught = teach(asked, TriageConfig(distil_agreement=0.85, confidence=0.95))
    assert student is not None
    assert taught.violating_kept == 1.0


def test_triage_by_a_distilled_judge_asks_the_dear_one_for_a_part_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage_in_process(monkeypatch)
    words = ["plain", "words", "of", "a", "kind", "that", "says", "little"]
    rng = np.random.default_rng(0)
    lines = []
    for i in range(1500):
        good, bad = (" ".join(rng.choice(words, 8)) for _ in "ab")
        lines.append(
            {
                "prompt": f"q{i}",
                "chosen": f"{good} FORBIDDEN {i}" if i % 2 else f"{good} {i}",
                "rejected": f"{bad} r{i}",
            }
        )
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    policy = PolicyConfig(clauses=[ClauseConfig(id="word", text="not that word", rule=RuleConfig(forbid="FORBIDDEN"))])
    triage = TriageConfig(
        judge=JudgeConfig(backend="rules"), first_judge=JudgeConfig(backend="distilled"), distil_pairs=500
    )
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    corpus = CorpusConfig(paths=(str(tmp_path / "x.jsonl"),), rows_per_part=256)
    run_triage(run, Config(policy=policy, corpus=corpus, triage=triage))
    manifest = run.triaged.manifest()
    assert manifest["distilled"]["at_least"] >= 0.97
    assert manifest["used"]["responses_judged"] == 3000
    assert 0.15 < manifest["escalated_share"] < 0.5
    rows = run.triaged.read(["chosen", "category"]).to_pylist()
    right = [("INVERT" if "FORBIDDEN" in row["chosen"] else "RETAIN") == row["category"] for row in rows]
    assert np.mean(right) > 0.97


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("triage.judge={backend: distilled}", "only triage.first_judge can be it"),
        ("triage.verdict_store=/tmp/x", "leave triage.verdict_store empty"),
        ("triage.false_invert_rate=0.1", "set it to 0.0"),
        ("triage.distil_pairs=10", "at least 100 pairs"),
    ],
)
def test_what_it_does_not_go_with_is_refused(override: str, said: str) -> None:
    base = ["policy.text=x", "triage.judge={backend: vllm, model: m}", "triage.first_judge={backend: distilled}"]
    with pytest.raises(UserError) as refused:
        load_config([], [*base, "triage.audit_labels=from_pairs", override])
    assert said in str(refused.value)
