from limbeck.evaluation.leak_table import leak_report
from limbeck.evaluation.results import Leak


def leak(exact: int, near: int, texts: int, *examples: tuple[str, str]) -> Leak:
    return Leak(exact=exact, near=near, texts=texts, threshold=0.8, examples=list(examples))


def test_what_was_found_is_summed_and_told_by_task():
    found = leak_report({"a": leak(2, 1, 1000, ("x", "y")), "b": leak(0, 0, 200)})
    assert found and (found.found, found.texts) == (3, 1200)
    assert found.sentence.startswith("3 of 1,200 evaluation texts were seen in training (2 equal, 1 near)")
    assert found.table.rows == [["a", "2", "1", "1,000", "0.3%", "0.8"], ["b", "0", "0", "200", "0.0%", "0.8"]]
    assert found.examples == [("a", "x", "y")]


def test_that_nothing_was_found_is_said_and_that_nothing_was_looked_for_is_not():
    clean = leak_report({"a": leak(0, 0, 1200)})
    assert clean and clean.sentence == "None of 1,200 evaluation texts is a training text or near one."
    assert leak_report({}) is None
    empty = leak_report({"a": leak(0, 0, 0)})
    assert empty and empty.table.rows[0][4] == "–"  # no share of no texts
