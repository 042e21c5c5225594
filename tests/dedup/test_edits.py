from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from limbeck.dedup import edits

SENTENCE = "Reads a file, line by line, and gives back what it holds as one long list."
TEXTS = st.text(min_size=4).filter(lambda text: len(edits.pieces(text)[0]) >= edits.LEAST)


def words_apart(a: str, b: str) -> int:
    return len(set(a.split()) ^ set(b.split()))


def test_light_edits_keep_the_words_but_for_one_in_ten() -> None:
    made = {edits.light_edit(SENTENCE, random.Random(seed)) for seed in range(200)}
    assert SENTENCE.lower() in made and SENTENCE.replace(",", "").rstrip(".") in made
    assert SENTENCE.rsplit(" ", 1)[0] in made  # cut off at the end
    others = made - {SENTENCE.lower(), SENTENCE.replace(",", "").rstrip(".")}
    assert all(words_apart(text, SENTENCE) <= 1 for text in others) and len(others) > 20


def test_a_changed_copy_has_one_word_in_five_from_other_texts() -> None:
    for seed in range(50):
        made = edits.changed(SENTENCE, ["otters swim quickly upstream"], random.Random(seed)).split()
        new = [i for i, (a, b) in enumerate(zip(SENTENCE.split(), made, strict=True)) if a != b]
        assert len(new) == 3 and all(made[i] in "otters swim quickly upstream" for i in new)  # of 15 words


def test_texts_without_spaces_are_edited_by_characters() -> None:
    made = edits.changed("日本語の文章です", ["東京都庁舎"], random.Random(0))
    assert len(made) == 8 and sum(a != b for a, b in zip(made, "日本語の文章です", strict=True)) == 2


@given(TEXTS, TEXTS, st.integers(0, 1000))
def test_any_text_can_be_edited_and_the_same_draw_makes_the_same_copy(text: str, other: str, seed: int) -> None:
    for edit in (edits.light_edit, lambda t, draw: edits.changed(t, [other], draw)):
        assert edit(text, random.Random(seed)) == edit(text, random.Random(seed))
