"""Copies of a text that say the same, and copies that do not: what similarities are calibrated by, without labels."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

LIGHT = 10  # one word in so many is dropped, swapped or cut off
CHANGED = 5  # one word in so many is replaced
LEAST = 4  # words, or characters, of a text that is edited

_MARKS = re.compile(r"[^\w\s]")


def pieces(text: str) -> tuple[list[str], str]:
    """Words, and what stands between them; characters, and nothing, where there are too few words."""
    words = text.split()
    return (words, " ") if len(words) >= LEAST else (list(text.strip()), "")


def light_edit(text: str, draw: random.Random) -> str:
    """A copy that a reader would call the same, by one of five edits.

    One word in ten (at least one) is dropped, or swapped with the next, or as many are cut off at the end; or letters
    are all made small, or large if they were small; or punctuation goes, or a full stop comes where there is none. In
    place of words, characters where there are fewer than four words.
    """
    parts, between = pieces(text)
    count = max(1, len(parts) // LIGHT)
    kind = draw.randrange(5)
    if kind == 0:
        for place in sorted(draw.sample(range(len(parts)), count), reverse=True):
            del parts[place]
    elif kind == 1:
        for place in draw.sample(range(len(parts) - 1), count):
            parts[place : place + 2] = parts[place + 1], parts[place]
    elif kind == 2:
        del parts[-count:]
    elif kind == 3:
        return text.lower() if text != text.lower() else text.upper()
    else:
        return _MARKS.sub("", text) if _MARKS.search(text) else f"{text.rstrip()}."
    return between.join(parts)


def changed(text: str, others: Sequence[str], draw: random.Random) -> str:
    """A copy that says something else: one word in five (at least one) is replaced by a word of another text."""
    parts, between = pieces(text)
    for place in draw.sample(range(len(parts)), max(1, round(len(parts) / CHANGED))):
        words = pieces(draw.choice(others))[0]
        parts[place] = draw.choice(words) if words else ""
    return between.join(parts)
