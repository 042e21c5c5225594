from collections import Counter

import pytest

from limbeck.data.corpora.relations import MAX_PLACES, Described, graded_pairs


def thing(name: str, parameters: str | None = None, module: str | None = None) -> Described:
    module = module or name.rpartition(".")[0]
    return Described(name=name, module=module, parameters=parameters, text=f"What {name} is for.")


def only(*things: Described) -> tuple[str, float]:
    [pair] = graded_pairs(things)
    assert {pair.query, pair.document} == {thing.text for thing in things}
    return pair.id, pair.score


@pytest.mark.parametrize(
    ("score", "a", "b"),
    [
        (1.0, thing("zoo.cage.Lion.feed"), thing("zoo.cage.Bear.feed")),
        (1.0, thing("zoo.cage.feed"), thing("zoo.shop.till.feed")),
        (1.0, thing("zoo.cage.feed", "meat, x"), thing("farm.feed", "*, meat")),
        (0.75, thing("zoo.cage.Lion.feed", module="zoo.cage"), thing("zoo.cage.Bear.wash", module="zoo.cage")),
        (0.5, thing("zoo.cage.feed"), thing("zoo.gate.open")),
        (0.25, thing("zoo.cage.feed"), thing("zoo.shop.till.open")),
        (0.0, thing("zoo.cage.feed", "meat"), thing("farm.cage.open", "meat")),
    ],
)
def test_the_score_is_how_near_two_things_are_documented(score: float, a: Described, b: Described):
    assert only(a, b)[1] == score
    assert only(b, a) == only(a, b)


def test_one_name_in_two_packages_with_nothing_in_common_is_no_pair():
    assert graded_pairs([thing("zoo.feed", "meat"), thing("printer.feed", "paper")]) == []
    assert graded_pairs([thing("zoo.feed"), thing("printer.feed")]) == []
    assert graded_pairs([thing("zoo.feed", "x, *args"), thing("printer.feed", "x, *args")]) == []


def test_a_name_that_is_everywhere_joins_nothing():
    many = [thing(f"zoo.C{i}.close") for i in range(MAX_PLACES + 1)]
    assert {pair.score for pair in graded_pairs(many[:-1])} == {1.0}
    assert graded_pairs(many) == []


def corpus() -> list[Described]:
    """Every name is in both modules of both folders of three packages."""
    return [
        thing(f"p{p}.d{d}.m{m}.f{i}", parameters=f"a{i}")
        for p in range(3) for d in range(2) for m in range(2) for i in range(50 * p, 50 * p + 50)
    ]  # fmt: skip


def test_every_score_has_the_same_number_of_pairs_and_every_text_one_pair_at_most():
    things = corpus()
    pairs = graded_pairs(things)
    counts = Counter(pair.score for pair in pairs)
    assert set(counts) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert all(0 <= len(things) // 10 - count <= 1 for count in counts.values())  # 1: two were left that do not fit
    texts = [text for pair in pairs for text in (pair.query, pair.document)]
    assert len(set(texts)) == len(texts)


def test_the_pairs_depend_on_the_things_and_not_on_their_order():
    things = corpus()
    pairs = graded_pairs(things)
    assert graded_pairs(things[::-1]) == pairs
    assert [pair.id for pair in pairs] == sorted(pair.id for pair in pairs)
