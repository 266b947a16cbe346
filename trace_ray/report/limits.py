"""Where the page changes its mind: every threshold between good, doubtful and bad, in one place.

What a user may set stands in ``ReportConfig``; the share of refused rows in ``corpus.refused``.
"""

from __future__ import annotations

KAPPA_STRONG = 0.8
"""Agreement with labels beyond chance from which a judge is good. Source: Landis and Koch (1977), almost perfect."""
KAPPA_MODERATE = 0.6
"""And below which it is bad; between the two it is doubtful."""
ONE_SIDED = 0.98
"""A judge that gives this share of the responses the same verdict does not tell them apart."""
LEAST_VERDICTS = 20
"""Verdicts needed before that may be said."""
ABSTAIN_PERCENT = 10.0
"""Of the pairs: more unsure ones than this are worth a warning."""
CLAMPED_SHARE = 0.5
"""Of a category's conflicts with no positive impact, from which on that is worth a warning."""
UNREADABLE_PERCENT = 2.0
"""Of the answers of both models, above which missing verdicts are worth a warning."""
SMALL_LOSS = 1.0
"""Points of compliance that may be lost on what was kept before the card is no longer good."""
FOREIGN_PERPLEXITY = 1000.0
"""Of the base on answers that it should keep, from which on these pairs cannot have aligned it."""


def kappa_tone(kappa: float | None) -> str:
    """Returns good, warn or bad; warn where the labels are of one class and there is no kappa.

    >>> [kappa_tone(k) for k in (0.8, 0.79, 0.6, 0.59, None)]
    ['good', 'warn', 'warn', 'bad', 'warn']
    """
    if kappa is None:
        return "warn"
    return "good" if kappa >= KAPPA_STRONG else "warn" if kappa >= KAPPA_MODERATE else "bad"
