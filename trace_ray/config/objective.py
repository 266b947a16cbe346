"""The hybrid objective's settings: for each category of pairs one loss or a weighted sum of several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trace_ray.config.fields import LATER, choice, later
from trace_ray.objective.losses import WEIGHT, Loss, find_loss
from trace_ray.pairs import RESPONSE_NAMES, TRAINED


@dataclass(frozen=True, kw_only=True)
class TermConfig:
    """What is done with the pairs of one category: ``prefer`` is raised or anchored, ``suppress`` lowered.

    Args:
        loss: one of ``trace_ray/objective/losses``, or of another package's.
        prefer, suppress: responses, named chosen, rejected or corrected; how many of each a loss takes, its entry says.
        parameters: {name: value} of the loss's own parameters, and ``weight``; what is not given, ``objective`` has. They may
            also be written beside ``loss``: {loss: dpo, beta: 0.1}.
        also: further terms of the category, added up. Written as a list, [{loss: dpo}, {loss: sft, weight: 0.5}], of which the
            first is the term itself.
    """

    loss: str = "skip"
    prefer: str = field(default="", metadata={"choices": ("", *RESPONSE_NAMES)})
    suppress: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    also: list[TermConfig] = field(default_factory=list, metadata=LATER)

    @property
    def entry(self) -> Loss:
        """The loss's entry in the table. Raises UserError where there is none of its name."""
        return find_loss(self.loss)

    @property
    def responses(self) -> tuple[str, ...]:
        """The responses that the loss reads, the preferred one first."""
        return tuple(dict.fromkeys(name for name in (self.prefer, *self.suppress) if name))


def _invert() -> TermConfig:
    return TermConfig(loss="dpo", prefer="rejected", suppress=("chosen",))


def _punish() -> TermConfig:
    return TermConfig(loss="npo", suppress=("chosen", "rejected"))


def _retain() -> TermConfig:
    return TermConfig(loss="kl", prefer="chosen")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The hybrid objective as a table from category to loss; the default is TRACE.

    Args:
        weights: ``impact`` weighs each pair by stage 2; ``uniform`` by 1; ``u2a`` picks pairs by their gain and raises
            the weight of those that still gain, round by round.
        retain: ``anchor``: the RETAIN pairs are a mean of their own times alpha_kl; ``pair``: they are weighed and
            averaged together with the conflicts, as methods without triage do.
        beta: scale of the log-ratios in dpo, rdpo and npo.
        alpha_kl: weight of the RETAIN term.
        kl_target: mean KL of the RETAIN answers to the reference, in nats a token, towards which alpha_kl is driven from step
            to step, at most a hundredfold either way; 0 = alpha_kl stays as it is. With ``realign.kl_reference=top_k`` it
            bounds a smaller quantity, the KL of the stored tokens and of the others as one, which the whole KL may exceed.
        kl_step: of that: by how much log alpha_kl changes in a step before which the KL of the last 10 steps' anchors was twice
            the target.
        tau: the target margin of ipo and ipo_sum is 1 / (2 tau), in nats a token for ipo, in nats for ipo_sum.
        length_norm: dpo, rdpo and npo on per-token means instead of sums; ipo is always on means, ipo_sum on sums.
        label_noise: rdpo's e, in [0, 1/2).
        npo_scale: multiply npo by 2 / beta, as in its paper.
        u2a_pairs: u2a keeps so many pairs; u2a_rounds: of training and rescoring; u2a_eta: its step in log-weights.
    """

    method: str = "trace"
    INVERT: TermConfig = field(default_factory=_invert)
    PUNISH: TermConfig = field(default_factory=_punish)
    RETAIN: TermConfig = field(default_factory=_retain)
    weights: str = choice("impact", "uniform", "u2a")
    retain: str = choice("anchor", "pair")
    beta: float = 0.3
    alpha_kl: float = 0.1
    kl_target: float = later(0.0)
    kl_step: float = later(0.05)
    tau: float = 0.3
    length_norm: bool = False
    label_noise: float = 0.0
    npo_scale: bool = False
    u2a_pairs: int = 1024
    u2a_rounds: int = 3
    u2a_eta: float = 0.01

    @property
    def weighed(self) -> tuple[str, ...]:
        """The categories whose pairs carry weights."""
        return ("INVERT", "PUNISH", "RETAIN") if self.retain == "pair" else ("INVERT", "PUNISH")

    def terms(self, category: str) -> tuple[TermConfig, ...]:
        """Returns the terms that a trained category's loss is the sum of: INVERT's, PUNISH's or RETAIN's; none if skipped."""
        first: TermConfig = getattr(self, category)
        return tuple(term for term in (first, *first.also) if term.entry.value)

    def parameters(self, term: TermConfig) -> dict[str, Any]:
        """Returns {name: value} of all that a term's loss declares, and its weight: the term's own, else the objective's."""
        return {
            p.name: term.parameters.get(p.name, getattr(self, p.name) if p.default is None else p.default)
            for p in (WEIGHT, *term.entry.parameters)
        }

    def sequences(self, category: str) -> tuple[str, ...]:
        """Returns the responses that a category's terms run, in order of first use."""
        return tuple(dict.fromkeys(name for term in self.terms(category) for name in term.responses))

    def responses(self, category: str) -> tuple[str, ...]:
        """Returns the responses that a category's terms read, in the order of the columns."""
        read = self.sequences(category)
        return tuple(name for name in RESPONSE_NAMES if name in read)

    def token_terms(self) -> tuple[tuple[str, TermConfig], ...]:
        """Returns (category, term) of every term that compares with the reference token by token, in the categories' order."""
        every = [(name.value, term) for name in TRAINED for term in self.terms(name)]
        return tuple((name, term) for name, term in every if term.entry.needs_reference_logits)

    def scored(self, category: str) -> tuple[str, ...]:
        """Returns those of ``sequences`` whose log-probs are read."""
        read = {name for term in self.terms(category) if term.entry.scored_by_slopes for name in term.responses}
        return tuple(name for name in self.sequences(category) if name in read)

    def compared(self, category: str) -> tuple[str, ...]:
        """Returns those of ``sequences`` whose distributions are compared with the reference's, token by token."""
        read = {name for of, term in self.token_terms() if of == category for name in term.responses}
        return tuple(name for name in self.sequences(category) if name in read)

    def needs_reference_log_probs(self, category: str) -> bool:
        """Whether a pair's reference log-probs must be stored before training."""
        return any(term.entry.needs_reference_log_probs for term in self.terms(category))

    def watched(self, category: str) -> TermConfig | None:
        """Returns the term that a category's implicit rewards are of: the first that reads log-ratios, else one that raises.

        None where a category has neither. Of one that only raises (sft) the reference's log-probs are known where its pairs are
        weighed.
        """
        terms = self.terms(category)
        raising = (term for term in terms if term.prefer and not term.entry.anchor)
        return next((term for term in terms if term.entry.needs_reference_log_probs), next(raising, None))

    def beta_of(self, term: TermConfig) -> float:
        """Returns what a term's log-ratios are multiplied by in implicit rewards."""
        return float(self.parameters(term).get("beta", self.beta))

    def anchored(self, category: str) -> bool:
        """Whether some term holds the category near the reference."""
        return any(term.entry.anchor for term in self.terms(category))

    @property
    def firmer(self) -> str:
        """The setting that holds the RETAIN answers more firmly: half of a target KL, else twice as much alpha_kl.

        >>> ObjectiveConfig(kl_target=0.1).firmer, ObjectiveConfig().firmer
        ('objective.kl_target=0.05', 'objective.alpha_kl=0.2')
        """
        if self.kl_target:
            return f"objective.kl_target={self.kl_target / 2:g}"
        return f"objective.alpha_kl={self.alpha_kl * 2 or 0.1:g}"

    @property
    def corrects(self) -> bool:
        """Whether PUNISH pairs train on a corrected response."""
        return "corrected" in self.sequences("PUNISH")
