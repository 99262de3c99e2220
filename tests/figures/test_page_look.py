"""Contrast of the page's colours in both themes, by the formula of WCAG 2.2: 4.5 for words, 3 for what is drawn."""

import re
from importlib.resources import files

import pytest

WORDS, DRAWN = 4.5, 3.0
SURFACES = ("--paper", "--card", "--tint")


def themes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\n *\}", (files("confreg.figures") / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    colours = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    assert set(colours[0]) == set(colours[1])
    return dict(zip(("light", "dark"), colours, strict=True))


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dim, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dim + 0.05)


def test_black_on_white_has_the_known_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("colour", ["--ink", "--quiet", "--entropy", "--frequency", "--both"])
def test_words_can_be_read_on_every_surface(theme, colour):
    colours = themes()[theme]
    assert min(contrast(colours[colour], colours[surface]) for surface in SURFACES) >= WORDS


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", ["good", "warn"])
def test_the_status_of_a_run_can_be_read(theme, state):
    colours = themes()[theme]
    assert contrast(colours[f"--{state}-ink"], colours[f"--{state}"]) >= WORDS


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("colour", ["--best", "--point", "--cursor", "--share-none", "--share-some", "--share-most", "--share-all"])
def test_what_is_drawn_can_be_seen_on_a_card(theme, colour):
    colours = themes()[theme]
    assert contrast(colours[colour], colours["--card"]) >= DRAWN
