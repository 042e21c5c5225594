from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.dedup import RECALL, SKETCH, TextIndex, _candidates, normalise, stable_hash


def words(count: int, seed: int) -> list[str]:
    return [f"w{n}" for n in random.Random(seed).sample(range(10**6), count)]


def with_shared_prefix(count: int, shared: int, seed: int) -> tuple[str, str]:
    """Two texts of `count` distinct words of which the first `shared` are the same."""
    every = words(2 * count - shared, seed)
    return " ".join(every[:count]), " ".join(every[:shared] + every[count:])


def groups(texts: list[str], threshold: float | None) -> list[int]:
    index = TextIndex(threshold)
    numbers = [index.add(normalise(text)) for text in texts]
    clusters = index.clusters()
    return [int(clusters[n]) for n in numbers]


def jaccard(a: str, b: str) -> float:
    first, second = ({tuple(t.split()[i : i + 5]) for i in range(len(t.split()) - 4)} for t in (a, b))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello \n\t World ", "hello world"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full width"),
        ("Straße", "strasse"),
        ("ﬁne\u00a0print", "fine print"),
        ("cafe\u0301", "café"),
        ("", ""),
    ],
)
def test_normalisation_folds_case_compatibility_forms_and_white_space(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalisation_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_fast_path_for_ascii_agrees_with_the_general_one(text: str) -> None:
    assert normalise(text) == normalise(text + " é")[:-1].rstrip()


def test_the_stable_hash_never_changes() -> None:
    # the split of every run so far depends on these two values
    assert stable_hash("") == 0x2D06800538D394C2
    assert stable_hash("hello world") == 0xD447B1EA40E6988B


def test_texts_with_one_changed_word_in_a_hundred_are_one_group_led_by_the_first() -> None:
    base = words(100, seed=0)
    changed = [*base[:50], "other", *base[51:]]
    other = words(100, seed=1)
    # 5 of 96 five-grams differ on each side: 91 / 101 = 0.90
    assert groups([" ".join(t) for t in (other, base, changed)], 0.8) == [0, 1, 1]
    assert groups([" ".join(t) for t in (other, base, changed)], 0.95) == [0, 1, 2]


def test_without_a_threshold_only_equal_texts_are_one() -> None:
    assert groups(["Hello World", "hello  world", "hello world!"], None) == [0, 0, 1]


def test_the_threshold_is_exact_for_texts_of_a_few_hundred_words() -> None:
    # J = 76 / 116 = 0.655 whatever the words are: at 0.65 nearly all pairs are found, at 0.66 none may be
    pairs = [with_shared_prefix(100, 80, seed) for seed in range(200)]
    assert {round(jaccard(*pair), 6) for pair in pairs} == {round(76 / 116, 6)}
    texts = [text for pair in pairs for text in pair]
    found = np.array(groups(texts, 0.65)).reshape(-1, 2)
    assert (found[:, 0] == found[:, 1]).mean() >= RECALL - 0.05  # three standard deviations of 200 draws
    assert groups(texts, 0.66) == list(range(400))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_pairs_above_the_threshold_are_found_and_those_below_are_not(threshold: float) -> None:
    pairs = [with_shared_prefix(150, shared, seed) for seed, shared in enumerate(range(6, 151, 3))]
    for pair, (a, b) in zip(
        pairs, np.array(groups([t for p in pairs for t in p], threshold)).reshape(-1, 2), strict=True
    ):
        similarity = jaccard(*pair)
        if similarity < threshold:
            assert a != b
        elif similarity > min(threshold + 0.1, 0.99):
            assert a == b


def test_long_texts_are_compared_by_their_sketches() -> None:
    count = 40 * SKETCH
    near = with_shared_prefix(count, int(0.97 * count), seed=0)  # J = 0.94
    far = with_shared_prefix(count, int(0.80 * count), seed=1)  # J = 0.67
    assert groups([*near, *far], 0.8) == [0, 0, 2, 3]


def test_a_long_text_and_a_part_of_it_are_compared_without_bias() -> None:
    # J = 0.5, standard error 0.03; over all that both sketches hold it would look like 0.33
    every = [words(40 * SKETCH, seed) for seed in range(5)]
    texts = [" ".join(part) for w in every for part in (w, w[: len(w) // 2])]
    assert groups(texts, 0.42) == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert groups(texts, 0.60) == list(range(10))


def test_texts_of_different_lengths_are_compared_shingle_by_shingle() -> None:
    full = [words(40 + 7 * seed, seed) for seed in range(30)]
    pairs = [(" ".join(w), " ".join(w[: int(len(w) * share)])) for w in full for share in [0.95 - 0.02 * (len(w) % 20)]]
    found = np.array(groups([t for pair in pairs for t in pair], 0.7)).reshape(-1, 2)
    for pair, (a, b) in zip(pairs, found, strict=True):
        assert (a == b) == (jaccard(*pair) >= 0.7) or 0.7 <= jaccard(*pair) < 0.8
    assert 0 < sum(a == b for a, b in found) < len(pairs)


def test_candidates_join_each_text_with_the_first_of_its_bucket_and_the_one_before() -> None:
    left, right = _candidates(np.array([7, 3, 7, 7, 3, 9, 7], np.uint64))
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(0, 2), (2, 3), (3, 6), (0, 3), (0, 6), (1, 4)}
    assert len(left) == 6


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    base = words(140, seed=0)
    chain = [" ".join(base[start : start + 100]) for start in range(0, 40, 5)]  # neighbours: 91 / 101
    assert jaccard(chain[0], chain[-1]) < 0.8
    assert groups(chain, 0.8) == [0] * len(chain)


def test_texts_shorter_than_a_shingle_group_only_when_their_words_are_equal() -> None:
    texts = ["sort a list", "Sort a list!", "sort a dict", "a list sort", "sort", "!?", "?!", "sort a list sort a"]
    assert groups(texts, 0.5) == [0, 0, 2, 3, 4, 5, 6, 7]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    base = "".join(chr(0x4E00 + n) for n in random.Random(0).sample(range(5000), 100))
    assert groups([base, base[:50] + "x" + base[51:], base[::-1]], 0.8) == [0, 0, 2]


def test_a_thousand_copies_of_a_template_are_one_group_and_the_rest_stay_apart() -> None:
    base = words(100, seed=0)
    template = [" ".join([*base, f"number{n}"]) for n in range(1000)]
    others = [" ".join(words(100, seed=n)) for n in range(1, 1000)]
    assert groups([*template, *others], 0.8) == [0] * 1000 + list(range(1000, 1999))


def test_groups_do_not_depend_on_where_blocks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [t for seed in range(40) for t in with_shared_prefix(60 + seed, 57 + seed, seed)] + ["short", "!"]
    expected = groups(texts, 0.7)
    assert expected != list(range(len(texts)))
    for name, value in (("_BLOCK_WORDS", 150), ("_CACHE_SHINGLES", 70), ("_PAIR_SHINGLES", 90), ("_MAX_VOCABULARY", 9)):
        monkeypatch.setattr(f"limbeck.data.dedup.{name}", value)
        assert groups(texts, 0.7) == expected


def test_an_index_without_texts_has_no_groups() -> None:
    assert TextIndex(0.8).clusters().tolist() == []
