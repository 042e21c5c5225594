"""`python-docs` in whole classes and modules."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import PythonDocsSource
from limbeck.data.corpora import python_docs, syntax
from limbeck.data.examples import Pair
from limbeck.errors import DataError

MODULE = '''
"""Tools for measuring the height of trees. Heights are in metres."""

raise SystemExit("a corpus must not import what it reads")


class Forest:
    """Hold the trees that grow in one place.

    Trees are kept in the order of planting.
    """

    def __init__(self, trees):
        """Not for readers."""

    @property
    def tallest(self):
        """Return the tree that towers above."""

    @tallest.setter
    def tallest(self, tree):
        """Replace the tallest tree by another."""

    async def fell(self, tree, *, gently=True):
        """Cut down a single tree.

        It falls away from the observer.
        """

    def undocumented(self):
        pass

    def _secret(self):
        """Nobody outside should ever call this."""


class Alone:
    """Stand in a field with nobody else around."""

    def wait(self):
        """Wait for another tree."""


def mean(heights):
    """Compute the average height."""


class Undocumented:
    def wave(self):
        """Wave at somebody."""
'''

FOREST = """woods.trees.Forest(trees)

Trees are kept in the order of planting.

tallest

Return the tree that towers above.

fell(tree, gently)

Cut down a single tree.

It falls away from the observer."""

TREES = """woods.trees

Heights are in metres.

Forest(trees)

Hold the trees that grow in one place.

Trees are kept in the order of planting.

Forest.tallest

Return the tree that towers above.

Forest.fell(tree, gently)

Cut down a single tree.

It falls away from the observer.

Alone

Stand in a field with nobody else around.

Alone.wait

Wait for another tree.

mean(heights)

Compute the average height.

Undocumented.wave

Wave at somebody."""


def read(folder: Path, **fields: Any) -> list[Pair]:
    return list(python_docs(PythonDocsSource(paths=[str(folder)], **fields)))  # type: ignore[arg-type]


@pytest.fixture
def woods(tmp_path: Path) -> Path:
    (tmp_path / "woods").mkdir()
    (tmp_path / "woods" / "__init__.py").write_text("")
    (tmp_path / "woods" / "trees.py").write_text(MODULE)
    return tmp_path


def test_a_class_is_asked_for_by_its_summary_and_is_all_that_is_documented_in_it(woods: Path) -> None:
    (pair,) = read(woods, pairs="class")
    assert pair == Pair(
        id="woods.trees.Forest", query="Hold the trees that grow in one place.", document=FOREST, lang="en"
    )


def test_a_module_is_its_classes_and_functions_in_the_order_of_the_file(woods: Path) -> None:
    (pair,) = read(woods, pairs="module")
    assert pair == Pair(id="woods.trees", query="Tools for measuring the height of trees.", document=TREES, lang="en")


def test_a_document_is_cut_at_a_word_and_a_member_behind_the_cut_changes_nothing(woods: Path) -> None:
    for limit in (30, 100, 200, len(TREES) - 1, len(TREES)):
        (pair,) = read(woods, pairs="module", max_document_chars=limit)
        assert TREES.startswith(pair.document)
        assert len(pair.document) <= limit
        rest = TREES[len(pair.document) :]
        assert not rest or rest[0].isspace()
        assert len(pair.document) + len(rest.split()[0] if rest.split() else "") + 2 >= min(limit, len(TREES))


def test_a_summary_that_its_members_repeat_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        textwrap.dedent(
            '''
            class A:
                """Count all the leaves of a tree."""
                def f(self):
                    """Count all the leaves of a tree, twice."""
                def g(self):
                    """Count nothing at all."""
            '''
        )
    )
    with pytest.raises(DataError, match=r"nothing for pairs: class among 1 files .*'summary repeated in the body': 1"):
        read(tmp_path, pairs="class")


def test_whole_classes_come_from_the_parse_that_others_have_paid_for(
    woods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = syntax._parsed
    monkeypatch.setattr(syntax, "_parsed", lambda path, skipped: parsed.append(path.name) or parse(path, skipped))
    for reading in ("summary", "class", "module"):
        read(woods, pairs=reading, max_document_chars=20_000)
    assert sorted(parsed) == ["__init__.py", "trees.py"]


def test_a_sample_of_whole_classes_is_part_of_a_larger_one(tmp_path: Path) -> None:
    body = '    def f(self):\n        """Do one thing."""\n    def g(self):\n        """Do another thing."""\n\n'
    text = "".join(f'class C{i}:\n    """Do the thing number {i} well."""\n{body}' for i in range(60))
    (tmp_path / "m.py").write_text(text)
    few, many = ([pair.id for pair in read(tmp_path, pairs="class", max_rows=n)] for n in (10, 30))
    assert len(few) == 10
    assert len(many) == 30
    assert set(few) < set(many)


def test_the_standard_library_has_long_modules() -> None:
    found = {
        pair.id: pair
        for pair in python_docs(
            PythonDocsSource(packages=["logging", "json"], pairs="module", max_document_chars=40_000)
        )
    }
    assert len(found["logging"].document) > 10_000  # type: ignore[union-attr]
    assert "dumps(obj, skipkeys" in found["json"].document  # type: ignore[union-attr]
