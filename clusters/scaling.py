"""The arithmetic behind SCALING.md: what N pairs cost, by stage, from stated sizes, speeds and prices.

python clusters/scaling.py            # the table
"""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.corpus.blocks import block_count, power_of_two
from trace_ray.corpus.units import piece_bytes

_LISTINGS = 45
"""Of a triage as a whole, whatever its size (tests/triage/test_triage_requests.py)."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Sizes of a pair, speeds of one GPU and prices; speeds and prices are assumptions, not measurements of ours.

    Args:
        prompt, response, template, policy: tokens; the policy is in the prefix cache after the first request.
        judge_rate: tokens a second that one GPU prefills; score_rate: forward; train_rate: forward and backward.
        conflict_share: INVERT and PUNISH among the pairs; as many RETAIN pairs are trained on.
        judge_gpu_hour, train_gpu_hour: USD, spot; put, get: USD a thousand requests, a listing costing what a PUT does.
        batch_rows: responses judged in one call: a mark before it and its verdicts after it are objects of their own.
    """

    prompt: int = 60
    response: int = 150
    template: int = 40
    policy: int = 800
    pair_bytes: int = 500
    triaged_bytes: int = 600
    scored_bytes: int = 2200
    trained_row_bytes: int = 1500
    index_row_bytes: int = 17
    judge_rate: float = 6_000
    score_rate: float = 12_000
    train_rate: float = 3_000
    conflict_share: float = 0.2
    judge_gpu_hour: float = 0.90
    train_gpu_hour: float = 1.05
    put: float = 0.005
    get: float = 0.0004
    rows_per_part: int = 8192
    shard_rows: int = 4096
    raw_bytes: int = 1200
    batch_rows: int = 256


def figures(pairs: int, given: Given) -> dict[str, str]:
    """Returns the column of one corpus size."""
    raw = pairs * given.raw_bytes
    runs = -(-raw // piece_bytes(raw))
    pieces = power_of_two(runs)
    blocks = block_count(pairs, given.rows_per_part, pieces)
    judged_tokens = pairs * 2 * (given.prompt + given.response + given.template)
    cached_tokens = pairs * 2 * given.policy
    conflicts = pairs * given.conflict_share
    trained = 2 * conflicts
    pair_tokens = given.prompt + 2 * given.response
    judge_hours = judged_tokens / given.judge_rate / 3600
    # One forward and one backward of activations only: about 2.5 forwards.
    score_hours = conflicts * pair_tokens * 2.5 / given.score_rate / 3600
    train_hours = trained * pair_tokens / given.train_rate / 3600
    shards = -(-pairs // given.shard_rows)
    calls = -(-2 * pairs // given.batch_rows)
    # A run and its record, a piece and its record; a block's verdicts, part, rejects and two tallies.
    puts = 2 * runs + 2 * pieces + 5 * blocks + 2 * calls + 2 * shards
    listings = blocks + _LISTINGS  # of a judged block's marks
    # A block's pairs twice, its verdicts once; its part once to survey it and once to score it.
    gets = runs * pieces + 5 * blocks + shards
    requests = (puts + listings) / 1000 * given.put + gets / 1000 * given.get
    return {
        "corpus, GB (parquet, zstd)": f"{pairs * given.pair_bytes / 1e9:,.1f}",
        "triaged/, GB": f"{pairs * given.triaged_bytes / 1e9:,.1f}",
        "scored/, GB": f"{trained * given.scored_bytes / 1e9:,.1f}",
        "judge tokens, new / cached, 1e9": f"{judged_tokens / 1e9:,.1f} / {cached_tokens / 1e9:,.1f}",
        "judge GPU-hours": f"{judge_hours:,.0f}",
        "impact GPU-hours": f"{score_hours:,.1f}",
        "realign GPU-hours, 1 epoch": f"{train_hours:,.0f}",
        "hours of triage on 20 judges": f"{judge_hours / 20:,.1f}",
        "cost on spot, USD: judge": f"{judge_hours * given.judge_gpu_hour:,.0f}",
        "cost on spot, USD: impact and realign": f"{(score_hours + train_hours) * given.train_gpu_hour:,.0f}",
        "tasks: blocks judged / shards scored": f"{blocks:,} / {shards:,}",
        "pairs of a block (lost with its node)": f"{pairs / blocks:,.0f}",
        "minutes of one judge for a block": f"{pairs / blocks * judged_tokens / pairs / given.judge_rate / 60:,.0f}",
        "runs read / pieces regrouped": f"{runs:,} / {pieces:,}",
        "objects written": f"{puts:,}",
        "requests read / listings": f"{gets:,} / {listings:,}",
        "requests, USD": f"{requests:,.2f}",
        "rows on one trainer node's disk, GB": f"{trained * given.trained_row_bytes / 1e9:,.1f}",
        "index of them in one trainer's memory, GB": f"{trained * given.index_row_bytes / 1e9:,.2f}",
    }


def table(sizes: tuple[int, ...] = (10**6, 10**8, 10**9), given: Given | None = None) -> str:
    """Returns the table as Markdown."""
    columns = [figures(size, given or Given()) for size in sizes]
    names = {10**6: "1 M", 10**8: "100 M", 10**9: "1 B"}
    lines = ["| pairs | " + " | ".join(names.get(size, f"{size:,}") for size in sizes) + " |"]
    lines.append("|---|" + "---:|" * len(sizes))
    lines += [f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
