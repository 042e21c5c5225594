"""Colours of the pages: read by everybody, in the light and in the dark (WCAG 2.2, AA)."""

import re
from importlib.resources import files

import pytest

from limbeck.evaluation.plots import KINDS

TEMPLATES = files("limbeck.evaluation").joinpath("templates")
STYLE = "".join(TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in ("chart.css.j2", "style.css.j2"))
LIGHT, DARK = (
    dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\n *\}", STYLE, re.S)
)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half(theme):
    for ground in ("paper", "card", "tint"):
        for text in ("ink", "muted", "student", "teacher", "bits"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    assert contrast(theme["paper"], theme["student"]) >= 4.5  # a badge


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_is_drawn_has_a_contrast_of_three(theme):
    for ground in ("paper", "card"):
        for line in ("untrained", *(css for css, _ in KINDS)):
            assert contrast(theme[line], theme[ground]) >= 3, (line, ground)


def test_both_themes_have_every_colour():
    assert LIGHT.keys() == DARK.keys() and len(LIGHT) > 15
    assert set(re.findall(r"var\(--(\w+)\)", STYLE)) - {"sans", "mono", "c", "s", "v", "k"} <= LIGHT.keys()
