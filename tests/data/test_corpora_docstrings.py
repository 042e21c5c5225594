import logging
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import PythonDocsSource
from limbeck.data.corpora import docstrings, python_docs, syntax
from limbeck.data.examples import LabelledText, ScoredPair
from limbeck.errors import DataError

MODULE = '''
"""Tools for measuring the height of trees.

Heights are in metres, and every function here takes a list of them as its input.
"""

import does_not_exist

raise SystemExit("a corpus must not import what it reads")


class Forest(Base):
    """Hold the trees that grow in one place.

    Trees are kept in the order in which they were planted, oldest first, and never moved.
    """

    def __init__(self, trees, *, name="wood"):
        """Plant the given trees here. They will be kept in the order in which they were given, oldest first."""

    @property
    def tallest(self):
        """Return the tree that towers above. Of several trees with the same height the oldest one is taken."""

    @tallest.setter
    def tallest(self, tree):
        """Replace the tallest tree by another. The other trees stay where they are, whatever their own height is."""

    async def fell(self, tree: "Tree", /, *rest, gently=True, **options):
        """Cut down a single tree. It falls away from the observer, who is warned some seconds ahead of it."""

    def _secret(self):
        """Nobody outside should ever call this. It is an inner detail of the forest that may change at any time."""


if True:
    try:
        def mean(heights):
            """Compute the average height of some trees.

            Parameters
            ----------
            heights : list of float
                In metres, each of them positive; an empty list is an error.
            """
    except ImportError:
        def mean(heights):
            """Estimate the average height in a hurry. This is the fallback, defined when the other one is not."""


def short():
    """Count the trees in a forest."""


def leak():
    """Measure every tree twice. To be sure, measure every tree twice, and then write down the larger of the two."""
'''


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).lstrip().encode())
    return folder


def function(name: str, summary: str, body: str = "One two three four five six seven eight nine ten.") -> str:
    return f'def {name}(x):\n    """{summary}\n\n    {body}\n    """\n\n'


def read(folder: Path, **fields: Any) -> list[Any]:
    return list(python_docs(PythonDocsSource(paths=[str(folder)], **fields)))


def package(folder: Path, name: str, functions: int) -> Path:
    """A package of so many functions, half of them in each of two modules; no two summaries are the same."""
    for part in range(2):
        numbers = range(part, functions, 2)
        text = "".join(function(f"f{i}", f"Do the {name} thing number {i} well.") for i in numbers)
        write(folder, {f"{name}/m{part}.py": text})
    return folder


@pytest.fixture
def woods(tmp_path: Path) -> Path:
    return write(tmp_path, {"woods/__init__.py": "", "woods/trees.py": MODULE})


def test_modules_classes_functions_and_methods_become_pairs_under_their_qualified_names(woods: Path):
    pairs = {pair.id: pair for pair in read(woods)}
    assert list(pairs) == [
        "woods.trees",
        "woods.trees.Forest",
        "woods.trees.Forest.tallest",
        "woods.trees.Forest.fell",
        "woods.trees.mean",
    ]
    assert pairs["woods.trees"].query == "Tools for measuring the height of trees."
    assert pairs["woods.trees.Forest.tallest"].query == "Return the tree that towers above."
    assert all(pair.lang == "en" and pair.teacher_query is None for pair in pairs.values())


def test_a_document_is_the_call_and_the_body_without_the_summary(woods: Path):
    pairs = {pair.id: pair for pair in read(woods)}
    assert pairs["woods.trees.mean"].document == (
        "woods.trees.mean(heights)\n\nParameters\nheights : list of float\n"
        "In metres, each of them positive; an empty list is an error."
    )
    assert pairs["woods.trees.Forest"].document.startswith("woods.trees.Forest(trees, name)\n\nTrees are kept")
    assert pairs["woods.trees.Forest.fell"].document.startswith(
        "woods.trees.Forest.fell(tree, *rest, gently, **options)\n\nIt falls"
    )
    assert all(pair.query.rstrip(".").lower() not in pair.document.lower() for pair in pairs.values())


def test_reading_never_imports(woods: Path):
    before = set(sys.modules)
    assert read(woods)  # the module raises SystemExit when imported
    assert not any(name.startswith("woods") for name in set(sys.modules) - before)


def test_the_place_of_the_packages_changes_nothing(tmp_path: Path):
    files = {
        f"p{i}/m{j}.py": function(f"f{j}", f"Do the thing number {i * 10 + j} well.")
        for i in range(3)
        for j in range(3)
    }
    here, there = (
        write(tmp_path / "here", files),
        write(tmp_path / "some" / "where" / "else", dict(reversed(files.items()))),
    )
    fields = {"max_rows": 5, "questions": 0.5}
    assert read(here, **fields) == read(there, **fields)
    assert read(here, pairs="graded") == read(there, pairs="graded")
    assert [p.id for p in read(here)] == sorted(p.id for p in read(here))


def test_the_name_of_a_package_is_found_from_a_folder_inside_it(woods: Path):
    assert read(woods / "woods") == read(woods)
    assert list(python_docs(PythonDocsSource(paths=[str(woods / "woods" / "trees.py")]))) == read(woods)


def test_documents_are_cut_at_a_word(tmp_path: Path):
    write(tmp_path, {"m.py": function("f", "Say very many words.", "word " * 100)})
    [pair] = read(tmp_path, max_document_chars=103)
    assert len(pair.document) <= 103
    assert pair.document.endswith(" word")


def test_tests_and_vendored_copies_are_left_out(tmp_path: Path):
    text = function("f", "Do something that is worth it.")
    folders = ["pkg/tests", "pkg/test", "pkg/_vendor/other", "pkg/vendored", "pkg/testing/_internal", "pkg/not-a-name"]
    files = {f"{folder}/m.py": text for folder in folders}
    files |= {f"pkg/{stem}.py": text for stem in ("conftest", "test_m", "m_test")}
    write(tmp_path, {**files, "pkg/testing/m.py": text})
    assert [pair.id for pair in read(tmp_path)] == ["pkg.testing.m.f"]


def test_a_query_names_one_document(tmp_path: Path):
    write(tmp_path, {
        "a/deep/inside.py": function("f", "Returns the sum of the rows."),
        "b.py": function("f", "Return a sum of rows.", "Another text about the same matter, but told at some length."),
    })  # fmt: skip
    assert [pair.id for pair in read(tmp_path)] == ["b.f"]


def test_boilerplate_is_dropped_altogether(tmp_path: Path):
    many = "".join(function(f"f{i}", "Construct the thing from a dictionary.", f"{'w ' * 9} {i}") for i in range(9))
    write(tmp_path, {"m.py": many + function("g", "Destroy the thing for good.")})
    assert [pair.id for pair in read(tmp_path)] == ["m.g"]


def test_files_that_cannot_be_read_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, {
        "good.py": function("f", "Do something that is worth it."),
        "python2.py": 'print "hello"\n"""x"""\n',
        "nul.py": b'"""a"""\0',
        "latin.py": b'"""caf\xe9"""\n',
        "declared.py": b"# coding: latin-1\n" + function("g", "Order a café at the bar.").encode("latin-1"),
        "huge.py": '"""' + "x" * syntax.MAX_FILE_BYTES + '"""',
        "deep.py": '"""x"""\n' + "(" * 500 + ")" * 500,
        "surrogate.py": function("h", r"Write half of a pair \\ud800 out.").replace("\\\\", "\\"),
    })  # fmt: skip
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    with caplog.at_level(logging.INFO, logger="limbeck"):
        pairs = read(tmp_path)
    assert [pair.query for pair in pairs] == ["Order a café at the bar.", "Do something that is worth it."]
    assert "'files not parsed': 4" in caplog.text
    assert "'files too large': 1" in caplog.text
    assert "'not Unicode text': 1" in caplog.text


def test_a_loop_of_links_ends(tmp_path: Path):
    write(tmp_path, {"pkg/m.py": function("f", "Do something that is worth it.")})
    (tmp_path / "pkg" / "again").symlink_to(tmp_path / "pkg", target_is_directory=True)
    assert [pair.id for pair in read(tmp_path)] == ["pkg.m.f"]


def test_a_package_behind_a_link_is_read(tmp_path: Path):
    write(tmp_path / "store", {"m.py": function("f", "Do something that is worth it.")})
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "pkg").symlink_to(tmp_path / "store", target_is_directory=True)
    assert [pair.id for pair in read(tmp_path / "site")] == ["pkg.m.f"]


def test_documentation_attached_by_a_call_belongs_to_what_it_names(tmp_path: Path):
    body = "Nothing is copied unless it has to be, so that large arrays are cheap."
    write(tmp_path, {"pkg/_docs.py": f'''
        add_docstr(pkg.clamp, r"""
        clamp(input, min) -> Array

        Limit every element to a range. {body}
        {{dtype}}
        """.format(**common))
        add_newdoc("pkg.core", "ndarray", ("sort", """Put the elements in order. {body}"""))
        add_newdoc("gamma", """Evaluate the gamma function. """ + """{body}""")
    '''})  # fmt: skip
    pairs = {pair.id: pair for pair in read(tmp_path)}
    assert list(pairs) == ["pkg.clamp", "pkg.core.ndarray.sort", "pkg.gamma"]
    assert pairs["pkg.clamp"].query == "Limit every element to a range."
    assert pairs["pkg.clamp"].document == f"pkg.clamp\n\n{body}"


def test_a_sample_is_stable_and_keeps_the_order(tmp_path: Path):
    write(tmp_path, {"m.py": "".join(function(f"f{i}", f"Do the thing number {i} well.") for i in range(50))})
    everything, sample, smaller = read(tmp_path), read(tmp_path, max_rows=20), read(tmp_path, max_rows=10)
    assert len(sample) == 20
    assert sample == [pair for pair in everything if pair in sample]
    assert all(pair in sample for pair in smaller)


def test_a_share_of_the_queries_is_asked_as_questions(tmp_path: Path):
    write(tmp_path, {"m.py": "".join(function(f"f{i}", f"Compute the value number {i} of it.") for i in range(200))})
    asked = {
        share: [not p.query.startswith("Compute") for p in read(tmp_path, questions=share)] for share in (0, 0.3, 1)
    }
    assert not any(asked[0])
    assert all(asked[1])
    assert 0.15 < sum(asked[0.3]) / 200 < 0.45


def test_a_labelled_text_is_the_docstring_without_its_name_and_its_top_package(
    woods: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(docstrings, "MIN_LABEL_TEXTS", 5)
    texts = {text.id: text for text in read(woods, pairs="package", questions=1.0)}
    assert list(texts) == [pair.id for pair in read(woods)]
    assert texts["woods.trees.mean"] == LabelledText(
        id="woods.trees.mean",
        text="Compute the average height of some trees.\n\nParameters\nheights : list of float\n"
        "In metres, each of them positive; an empty list is an error.",
        lang="en",
        labels=("woods",),
    )
    assert {text.labels for text in texts.values()} == {("woods",)}
    assert all(len(text.text) <= 50 for text in read(woods, pairs="package", max_document_chars=50))


def test_a_package_of_few_texts_is_no_label(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    package(tmp_path, "large", docstrings.MIN_LABEL_TEXTS)
    package(tmp_path, "small", docstrings.MIN_LABEL_TEXTS - 1)
    with caplog.at_level(logging.INFO, logger="limbeck"):
        texts = read(tmp_path, pairs="package")
    assert Counter(text.labels for text in texts) == {("large",): docstrings.MIN_LABEL_TEXTS}
    assert f"'package of few texts': {docstrings.MIN_LABEL_TEXTS - 1}" in caplog.text
    with pytest.raises(DataError, match="nothing for pairs: package among 29 docstrings"):
        read(tmp_path / "small", pairs="package")


def test_the_section_of_a_text_is_the_first_two_parts_of_its_module(tmp_path: Path):
    package(tmp_path, "ant", 70)
    package(tmp_path, "ant/legs/joints", 40)  # modules ant.legs.joints.m0 and m1
    for folder in ("ant", "ant/legs", "ant/legs/joints"):
        write(tmp_path, {f"{folder}/__init__.py": ""})
    texts = read(tmp_path, pairs="section")
    assert Counter(text.labels for text in texts) == {("ant.m0",): 35, ("ant.m1",): 35, ("ant.legs",): 40}
    assert [text.text for text in texts] == [text.text for text in read(tmp_path, pairs="package")]


def test_a_sample_of_labelled_texts_takes_the_same_number_of_each_label(tmp_path: Path):
    for name, functions in {"ant": 100, "bee": 40, "cat": 31}.items():
        package(tmp_path, name, functions)
    everything, sample = read(tmp_path, pairs="package"), read(tmp_path, pairs="package", max_rows=100)
    assert len(everything) == 171
    assert sample == [text for text in everything if text in sample]
    assert Counter(text.labels[0] for text in sample) == {"ant": 35, "bee": 34, "cat": 31}
    assert all(text in sample for text in read(tmp_path, pairs="package", max_rows=50))


def test_graded_pairs_are_of_the_same_texts_as_the_labelled(tmp_path: Path):
    for name in ("ant", "bee"):
        package(tmp_path, name, 40)
    texts = {text.id: text.text for text in read(tmp_path, pairs="package")}
    pairs = read(tmp_path, pairs="graded")
    assert all(isinstance(pair, ScoredPair) and pair.lang == "en" for pair in pairs)
    assert [[texts[name] for name in pair.id.split(" ~ ")] for pair in pairs] == [[p.query, p.document] for p in pairs]
    same = Counter((pair.score, pair.id[0] == pair.id.partition(" ~ ")[2][0]) for pair in pairs)
    assert same == {(0.75, True): 8, (0.5, True): 8, (0.0, False): 8}  # no name is in one package twice
    sample = read(tmp_path, pairs="graded", max_rows=9)
    assert sample == [pair for pair in pairs if pair in sample]
    assert Counter(pair.score for pair in sample) == {0.75: 3, 0.5: 3, 0.0: 3}


def test_one_text_has_no_partner(tmp_path: Path):
    write(tmp_path, {"m.py": function("f", "Do something that is worth it.")})
    with pytest.raises(DataError, match="nothing for pairs: graded among 1 docstrings"):
        read(tmp_path, pairs="graded")


def test_a_file_is_parsed_once_for_all_sources_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parsed: list[str] = []
    parse = syntax._parsed
    monkeypatch.setattr(syntax, "_parsed", lambda path, skipped: parsed.append(path.name) or parse(path, skipped))
    write(tmp_path, {"a.py": function("f", "Do something that is worth it."), "b.py": "x = 1"})
    first = read(tmp_path)
    assert read(tmp_path, max_document_chars=400) == first
    assert parsed == ["a.py", "b.py"]
    write(tmp_path, {"a.py": function("f", "Do something else, worth it, too.")})
    os.utime(tmp_path / "a.py", ns=(0, 0))
    assert [pair.query for pair in read(tmp_path)] == ["Do something else, worth it, too."]
    assert parsed == ["a.py", "b.py", "a.py"]


def test_a_limit_beyond_what_others_keep_is_kept(tmp_path: Path):
    write(tmp_path, {"m.py": function("f", "Say very many words.", "word " * 3000)})
    lengths = [len(read(tmp_path, max_document_chars=limit)[0].document) for limit in (100, 5000, 100)]
    assert lengths == [97, 4997, 97]  # "m.f(x)" and an empty line, then words of five characters with their space


def test_what_was_left_out_is_counted_for_each_source(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, {"m.py": MODULE})
    with caplog.at_level(logging.INFO, logger="limbeck"):
        read(tmp_path)
        read(tmp_path)
    first, second = caplog.messages
    assert first == second
    assert "'body too short': 1" in first
    assert "'summary repeated in the body': 1" in first


def test_installed_packages_are_found_by_import_name():
    pairs = list(python_docs(PythonDocsSource(packages=["json", "yaml"])))
    names = {pair.id for pair in pairs}
    assert "json.decoder.JSONDecoder" in names
    assert {name.split(".")[0] for name in names} <= {"json", "yaml"}


def test_a_dotted_name_restricts_to_a_part_of_a_package():
    assert all(p.id.startswith("json.decoder") for p in python_docs(PythonDocsSource(packages=["json.decoder"])))


def test_the_standard_library_and_the_environment_are_read_but_not_limbeck_itself():
    names = {name for name, _ in docstrings._chosen(PythonDocsSource())}
    assert {"json", "pydantic.main", "numpy.linalg"} <= names
    assert not any(name == "limbeck" or name.startswith("limbeck.") for name in names)


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(DataError, match=r"no Python sources of no_such_package .*import names"):
        list(python_docs(PythonDocsSource(packages=["json", "no_such_package"])))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")


def test_a_folder_without_docstrings_is_an_error(tmp_path: Path):
    write(tmp_path, {"m.py": "x = 1"})
    with pytest.raises(DataError, match="found no docstring with a summary and 8 words more in 1 files"):
        read(tmp_path)


def test_garbage_collection_is_on_again_afterwards(woods: Path):
    code = f"""
import gc
from limbeck.config import PythonDocsSource
from limbeck.data.corpora import python_docs
next(python_docs(PythonDocsSource(paths=[{str(woods)!r}])))
assert gc.isenabled()
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(docstrings.__file__).parents[3])}
    )
