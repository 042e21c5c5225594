from fake_results import fake_model

from limbeck.evaluation.columns import best_of, cell, column_named, columns_of
from limbeck.evaluation.results import parse_evaluation


def names_of(*models) -> list[str]:
    return [column.name for column in columns_of(parse_evaluation({"models": list(models)}))]


def test_variants_of_one_name_are_told_apart_by_what_they_differ_in():
    wide, narrow, bits = fake_model("m", 0.9), fake_model("m", 0.9, dim=64), fake_model("m", 0.8, dim=64)
    bits |= {"identity": "bits", "precision": "binary"}
    assert names_of(wide, fake_model("other", 0.9)) == ["m", "other"]
    assert names_of(wide, narrow) == ["m, 384 dims", "m, 64 dims"]
    assert names_of(wide, narrow, bits) == ["m, 384 dims", "m, 64 dims, float32", "m, 64 dims, binary"]


def test_variants_that_differ_in_nothing_shown_still_have_two_names():
    one, other = fake_model("m", 0.9), fake_model("m", 0.9) | {"identity": "another checkpoint"}
    names = names_of(one, other)
    assert len(set(names)) == 2 and all(name.startswith("m, ") for name in names)


def test_seeds_of_a_group_share_a_column_and_one_alone_keeps_its_name():
    seeds = [fake_model("m", 0.9, seed=seed, group="digest") for seed in (1, 2)]
    assert names_of(*seeds, fake_model("n", 0.9)) == ["m, 2 seeds", "n"]
    assert names_of(seeds[0]) == ["m-1"]


def test_a_reference_is_found_by_the_name_of_its_model_too():
    columns = columns_of(parse_evaluation({"models": [fake_model("m", 0.9, dim=d) for d in (64, 128)]}))
    assert column_named(columns, "m, 64 dims") is columns[0]
    one = columns_of(parse_evaluation({"models": [fake_model("m", 1, seed=s, group="g") for s in (1, 2)]}))
    assert column_named(one, "m-2") is one[0]


def test_the_best_are_the_highest_as_they_are_shown():
    assert best_of([0.5001, 0.5004, 0.4]) == {0, 1}
    assert best_of([None, 0.3, 0.4]) == {2}
    assert best_of([0.3, None]) == best_of([]) == set()


def test_a_cell_of_nothing_is_a_dash_and_of_one_seed_has_no_interval():
    assert cell([]) == "–" and cell([0.61249]) == "0.612"
    assert cell([0.5, 0.5]) == "0.500 ± 0.000"
