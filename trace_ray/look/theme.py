"""The page's colours, one set for light and one for dark; the style sheet and the plots take them from here alone."""

from __future__ import annotations

LIGHT = {
    "ground": "#ffffff",
    "card": "#f5f6f8",
    "ink": "#1b1d23",
    "muted": "#5a606b",
    "line": "#d5d8de",
    "link": "#1757b8",
    "good": "#17663f",
    "bad": "#a02440",
    "warn": "#855000",
    "retain": "#1f7468",
    "invert": "#a85b00",
    "punish": "#9c3160",
    "abstain": "#646a75",
    "base": "#6a707c",
    "realigned": "#2458c4",
    "on-fill": "#fffffe",
}

DARK = {
    "ground": "#15171c",
    "card": "#1f2229",
    "ink": "#eceef2",
    "muted": "#a6adb9",
    "line": "#3a3f49",
    "link": "#8db8ff",
    "good": "#79d3a2",
    "bad": "#ff9db0",
    "warn": "#f0bf6a",
    "retain": "#62c7b5",
    "invert": "#f0ad55",
    "punish": "#ec8db3",
    "abstain": "#a3a9b4",
    "base": "#a2a8b4",
    "realigned": "#8fb4ff",
    "on-fill": "#101216",
}

TEXT_ON_GROUND = ("ink", "muted", "link", "good", "bad", "warn", "retain", "invert", "punish", "abstain", "realigned")
"""Colours that text is set in, on ``ground`` and on ``card``."""

FILLS = ("retain", "invert", "punish", "abstain")
"""Colours that carry text in ``on-fill``."""


def style_variables(colours: dict[str, str]) -> str:
    """Returns the colours as CSS custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def contrast(first: str, second: str) -> float:
    """Returns the contrast ratio, 1 to 21, of two #rrggbb colours. Source: WCAG 2.2, relative luminance."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
