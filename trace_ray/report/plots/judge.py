"""The judge's curves: certainty over the corpus, ROC and reliability against labels."""

from __future__ import annotations

from typing import Any

from trace_ray.look.figure import Picture, picture
from trace_ray.look.theme import LIGHT
from trace_ray.report.sections.judge import Certainty, JudgeAudit, JudgeSection
from trace_ray.report.survey.triaged import BINS


def certainty_picture(judge: JudgeSection, certainty: Certainty) -> Picture:
    """Returns two histograms of P(violates), the threshold and the abstain band marked."""
    unsure = _between(certainty, 0.1, 0.9)
    label = f"P(violates) over {certainty.responses} responses; {unsure:.1f} % lie between 0.1 and 0.9."
    return picture(
        lambda figure, narrow: _certainty(figure, judge, certainty, narrow=narrow),
        name="certainty",
        label=label,
        wide=2.5,
        narrow=3.6,
    )


def _between(certainty: Certainty, low: float, high: float) -> float:
    inside = sum(
        n for found in (certainty.chosen, certainty.rejected) for n in found[round(low * BINS) : round(high * BINS)]
    )
    return 100 * inside / max(1, certainty.responses)


def _certainty(figure: Any, judge: JudgeSection, certainty: Certainty, *, narrow: bool) -> None:
    both = figure.subplots(2, 1, sharex=True) if narrow else figure.subplots(1, 2, sharey=True)
    figure.get_layout_engine().set(wspace=0.08)  # one's last tick and the other's first would touch
    for axes, name in zip(both, ("chosen", "rejected"), strict=True):
        counts = getattr(certainty, name)
        left = [i / BINS for i in range(BINS)]
        colours = [LIGHT["retain"] if at + 0.5 / BINS < judge.threshold else LIGHT["punish"] for at in left]
        axes.bar(left, counts, width=0.92 / BINS, align="edge", color=colours)
        axes.axvline(judge.threshold, color=LIGHT["ink"], linewidth=1)
        if judge.abstain_band:
            low, high = judge.threshold - judge.abstain_band, judge.threshold + judge.abstain_band
            axes.axvspan(low, high, color=LIGHT["abstain"], alpha=0.25, linewidth=0)
        axes.set_title(f"{name} responses", color=LIGHT["ink"])
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(_integers())
        axes.tick_params(length=0)
        if name == "rejected" or not narrow:
            axes.set_xlabel("P(violates the new policy)")
    both[0].set_ylabel("responses")


def roc_picture(audit: JudgeAudit) -> Picture:
    """Returns the ROC curve."""
    return picture(
        lambda figure, _narrow: _roc(figure, audit),
        name="roc",
        label=f"ROC curve; area under it {audit.figures['auc']:.3f}.",
        wide=3.6,
        narrow=3.6,
    )


def _roc(figure: Any, audit: JudgeAudit) -> None:
    axes = figure.add_subplot()
    x, y = zip(*audit.roc, strict=True)
    axes.plot([0, 1], [0, 1], color=LIGHT["line"], linewidth=1)
    axes.plot(x, y, color=LIGHT["realigned"], linewidth=2)
    axes.fill_between(x, y, color=LIGHT["realigned"], alpha=0.12, linewidth=0)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false alarms", ylabel="violations found", title="ROC")
    axes.set_aspect("equal")
    axes.tick_params(length=0)


def reliability_picture(audit: JudgeAudit) -> Picture:
    """Returns the calibration curve: what the judge says against what the labels say."""
    return picture(
        lambda figure, _narrow: _reliability(figure, audit),
        name="reliability",
        label="Calibration: " + "; ".join(f"said {p:.2f}, observed {o:.2f} ({n})" for p, o, n in audit.reliability),
        wide=3.6,
        narrow=3.6,
    )


def _reliability(figure: Any, audit: JudgeAudit) -> None:
    axes = figure.add_subplot()
    said, observed, count = zip(*audit.reliability, strict=True)
    axes.plot([0, 1], [0, 1], color=LIGHT["line"], linewidth=1)
    axes.plot(said, observed, color=LIGHT["realigned"], linewidth=1.5)
    sizes = [18 + 160 * n / max(count) for n in count]
    axes.scatter(said, observed, s=sizes, color=LIGHT["realigned"], alpha=0.7, linewidth=0)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel="P(violates) said", ylabel="share that violates")
    axes.set_title("Calibration (dot size: responses)")
    axes.set_aspect("equal")
    axes.tick_params(length=0)


def _integers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)
