from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.config import Data
from limbeck.data.dedup import normalise
from limbeck.data.examples import Example, LabelledText, Pair, ScoredPair, Text, Triplet
from limbeck.data.prepare import prepare
from limbeck.data.tables import Prepared
from limbeck.errors import DataError

COLUMNS: dict[str, dict[str, Any]] = {
    "pair": {"query": "q", "document": "d"},
    "triplet": {"query": "q", "document": "d", "negatives": "n"},
    "scored": {"query": "q", "document": "d", "score": "s"},
    "text": {"text": "t"},
    "labelled": {"text": "t", "labels": "l"},
}


def source(folder: Path, rows: list[dict[str, Any]], kind: str = "pair", name: str = "s", **fields: Any) -> dict:
    path = folder / f"{name.replace('/', '-')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = COLUMNS[kind] | fields.pop("columns", {})
    return {"type": "file", "name": name, "path": str(path), "columns": columns, **fields}


def data(*sources: dict, heldout_fraction: float = 0.0, **fields: Any) -> Data:
    return Data.model_validate({"sources": list(sources), "heldout_fraction": heldout_fraction, **fields})


def pairs(count: int, prefix: str = "") -> list[dict[str, Any]]:
    return [{"q": f"{prefix}query {i}", "d": f"{prefix}document number {i}"} for i in range(count)]


def texts_of(example: Example) -> Iterator[str]:
    """Every text of an example, normalised."""
    if isinstance(example, Pair):
        found = [example.query, example.document, example.teacher_query, example.teacher_document]
        found += example.negatives if isinstance(example, Triplet) else ()
    else:
        found = [example.text, example.teacher_text]
    return (normalise(text) for text in found if text)


def halves(prepared: Prepared) -> tuple[set[str], set[str]]:
    """All texts of training, and all that are held out, over all sources."""
    train = {t for split in prepared.sources.values() for example in split.train for t in texts_of(example)}
    heldout = {t for split in prepared.sources.values() for example in split.heldout for t in texts_of(example)}
    return train, heldout


def assert_counts_add_up(prepared: Prepared) -> None:
    for name, counts in prepared.counts.items():
        assert counts["read"] == sum(n for key, n in counts.items() if key not in ("read", "negatives_removed"))
        assert counts["train"] == len(prepared.sources[name].train)
        assert counts["heldout"] == len(prepared.sources[name].heldout)


# ------------------------------------------------------------------------------- what comes out


def test_every_kind_of_example_comes_back_as_it_was_read(tmp_path: Path) -> None:
    rows = {
        "pair": [{"q": "a", "d": "b", "qe": "A en", "de": None, "l": "de"}],
        "triplet": [{"q": "a", "d": "b", "n": ["c", "d", "e"]}],
        "scored": [{"q": "a", "d": "b", "s": 0.25}],
        "text": [{"t": "ä", "te": "a"}],
        "labelled": [{"t": "a", "l": ["x", "y"]}],
    }
    extra = {"pair": {"teacher_query": "qe", "teacher_document": "de", "lang": "l"}, "text": {"teacher_text": "te"}}
    sources = [source(tmp_path, rows[k], k, name=k, columns=extra.get(k, {}), weight=2.0) for k in rows]
    prepared = prepare(data(*sources), tmp_path / "out")
    assert {name: split.train[0] for name, split in prepared.sources.items()} == {
        "pair": Pair(id=f"{tmp_path}/pair.jsonl:1", query="a", document="b", teacher_query="A en", lang="de"),
        "triplet": Triplet(id=f"{tmp_path}/triplet.jsonl:1", query="a", document="b", negatives=("c", "d", "e")),
        "scored": ScoredPair(id=f"{tmp_path}/scored.jsonl:1", query="a", document="b", score=0.25),
        "text": Text(id=f"{tmp_path}/text.jsonl:1", text="ä", teacher_text="a"),
        "labelled": LabelledText(id=f"{tmp_path}/labelled.jsonl:1", text="a", labels=("x", "y")),
    }
    assert all(split.train.weight == 2.0 for split in prepared.sources.values())


def test_a_table_gives_texts_by_role_for_student_and_teacher(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "d": f"d{i}", "de": f"en{i}" if i % 2 else None} for i in range(20_000)]
    columns = {"teacher_document": "de"}
    table = prepare(data(source(tmp_path, rows, columns=columns, lang="fr")), tmp_path / "out").sources["s"].train
    assert table.roles == ("query", "document")
    assert table.texts("query") == table.teacher_texts("query") == [row["q"] for row in rows]
    assert table.teacher_texts("document") == [row["de"] or row["d"] for row in rows]
    assert table.lang == ["fr"] * len(rows)
    assert [table[i].id for i in (0, -1, 12_345)] == [table.ids[i] for i in (0, -1, 12_345)]
    assert [e.id for e in table] == table.ids
    assert [e.id for e in table[10:30:7]] == table.ids[10:30:7]
    with pytest.raises(IndexError):
        table[len(rows)]
    with pytest.raises(ValueError, match="holds pair examples with query and document, not 'text'"):
        table.texts("text")
    with pytest.raises(ValueError, match="have no score"):
        table.scores  # noqa: B018


def test_scores_labels_and_negatives_are_given_as_columns(tmp_path: Path) -> None:
    prepared = prepare(
        data(
            source(tmp_path, [{"q": "a", "d": "b", "s": 1}, {"q": "c", "d": "e", "s": 2.5}], "scored", name="x"),
            source(tmp_path, [{"t": "a", "l": "m"}, {"t": "b", "l": ["m", "n"]}], "labelled", name="y"),
            source(tmp_path, [{"q": "a", "d": "b", "n": ["c"]}, {"q": "b", "d": "c", "n": ["d", "e"]}], "triplet"),
        ),
        tmp_path / "out",
    )
    assert prepared.sources["x"].train.scores.tolist() == [1.0, 2.5]
    assert prepared.sources["y"].train.labels == [("m",), ("m", "n")]
    assert prepared.sources["s"].train.negatives == [("c",), ("d", "e")]
    assert prepared.sources["x"].train.negatives == [(), ()]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    config = data(source(tmp_path, pairs(3000)), heldout_fraction=0.1)
    folders = [prepare(config, tmp_path / name).path for name in ("one", "two")]
    first, second = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert first == second
    assert len(first) == 3


def test_the_fingerprint_changes_with_any_text(tmp_path: Path) -> None:
    rows = pairs(100)
    before = prepare(data(source(tmp_path, rows)), tmp_path / "one").fingerprint
    rows[50]["d"] += "!"
    assert prepare(data(source(tmp_path, rows)), tmp_path / "two").fingerprint != before


def test_a_source_name_may_hold_what_a_file_name_cannot(tmp_path: Path) -> None:
    names = ["org/set", "org:set", "ü" * 200]
    sources = [source(tmp_path, pairs(3, f"{i} "), name=name) for i, name in enumerate(names[:2])]
    sources.append(source(tmp_path, pairs(3, "x "), name="long") | {"name": names[2]})
    assert list(prepare(data(*sources), tmp_path / "out").sources) == names


def test_progress_is_told_by_source_and_rows(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    prepare(
        data(source(tmp_path, pairs(2500))), tmp_path / "out", progress=lambda name, rows: calls.append((name, rows))
    )
    assert calls == [("s", 1000), ("s", 2000), ("s", 2500)]


def test_a_text_of_100000_characters_is_kept_whole_and_its_near_copy_goes(tmp_path: Path) -> None:
    words = [f"w{random.Random(0).randrange(10**6) + i}" for i in range(14_000)]
    long = " ".join(words)
    assert len(long) > 100_000
    near = " ".join([*words[:-3], "an", "other", "end"])
    prepared = prepare(data(source(tmp_path, [{"t": long}, {"t": near}, {"t": "b"}], "text")), tmp_path / "out")
    assert prepared.sources["s"].train.texts("text") == [long, "b"]
    assert prepared.counts["s"]["near_duplicates"] == 1


# ------------------------------------------------------------------------------------ cleaning


def test_duplicates_are_counted_as_by_hand(tmp_path: Path) -> None:
    document = [f"word{i}" for i in range(100)]
    near = " ".join([*document[:50], "changed", *document[51:]])
    far = " ".join(document[::-1])
    same = " ".join(document)
    rows = [
        {"q": "first query of five words", "d": same},
        {"q": "First  query of FIVE words", "d": same.upper()},  # exact, after normalisation
        {"q": "first query of five words!", "d": near},  # near
        {"q": "another query of five words", "d": same},  # one document under two queries is none
        {"q": "another query of five words", "d": near},  # near to the one before
        {"q": "first query of five words", "d": far},  # one query with two documents is none
        {"q": "x", "d": "too short"},
    ]
    prepared = prepare(data(source(tmp_path, rows), min_chars=2), tmp_path / "out")
    counts = prepared.counts["s"]
    assert (counts["exact_duplicates"], counts["near_duplicates"], counts["too_short"]) == (1, 2, 1)
    assert [int(i.rsplit(":")[-1]) for i in prepared.sources["s"].train.ids] == [1, 4, 6]
    assert_counts_add_up(prepared)
    exact_only = prepare(data(source(tmp_path, rows), near_duplicate_threshold=None), tmp_path / "exact")
    assert exact_only.counts["s"]["near_duplicates"] == 0
    assert len(exact_only.sources["s"].train) == 6


def test_the_first_of_two_duplicates_stays_across_sources_of_one_kind(tmp_path: Path) -> None:
    one = source(tmp_path, pairs(5), name="one")
    two = source(tmp_path, [*pairs(3), {"q": "own", "d": "own document"}], name="two")
    prepared = prepare(data(one, two), tmp_path / "out")
    assert [prepared.counts[name]["exact_duplicates"] for name in ("one", "two")] == [0, 3]
    assert prepared.sources["two"].train.texts("query") == ["own"]


def test_the_same_text_in_another_kind_of_source_is_no_duplicate(tmp_path: Path) -> None:
    texts = [{"t": f"text {i}", "l": "x"} for i in range(5)]
    prepared = prepare(
        data(source(tmp_path, texts, "text", name="a"), source(tmp_path, texts, "labelled", name="b")), tmp_path / "out"
    )
    assert [prepared.counts[name]["train"] for name in "ab"] == [5, 5]


def test_a_duplicate_triplet_leaves_its_negatives_to_the_first(tmp_path: Path) -> None:
    rows = [
        {"q": "a", "d": "b", "n": ["x", "y"]},
        {"q": "c", "d": "d", "n": ["z"]},
        {"q": "A", "d": "B", "n": ["Y", "w"]},
        {"q": "a", "d": "b", "n": ["v", "w"]},
    ]
    prepared = prepare(data(source(tmp_path, rows, "triplet")), tmp_path / "out")
    assert prepared.sources["s"].train.negatives == [("x", "y", "w", "v"), ("z",)]
    assert prepared.counts["s"]["exact_duplicates"] == 2
    assert prepared.counts["s"]["negatives_removed"] == 0


def test_malformed_rows_are_counted_and_described_in_the_manifest(tmp_path: Path) -> None:
    prepared = prepare(data(source(tmp_path, [*pairs(3), {"q": "a"}], max_malformed=1)), tmp_path / "out")
    assert prepared.counts["s"]["malformed"] == 1
    assert Prepared.open(tmp_path / "out").malformed["s"][0].startswith(f"{tmp_path}/s.jsonl:4: no field 'd'")
    assert_counts_add_up(prepared)


# ----------------------------------------------------------------------------------- the split


def test_a_source_may_hold_out_a_share_of_its_own(tmp_path: Path) -> None:
    rows = pairs(2000)
    own = source(tmp_path, rows, name="own", heldout_fraction=0.5)
    other = source(tmp_path, pairs(2000, "other "), name="other")
    none = source(tmp_path, pairs(500, "none "), name="none", heldout_fraction=0.0)
    prepared = prepare(data(own, other, none, heldout_fraction=0.1), tmp_path / "out")
    heldout = {name: counts["heldout"] for name, counts in prepared.counts.items()}
    assert 900 < heldout["own"] < 1100 and 150 < heldout["other"] < 250 and heldout["none"] == 0
    # the documents that are held out at a smaller share are among them
    fewer = prepare(data(source(tmp_path, rows), heldout_fraction=0.1), tmp_path / "fewer")
    few, many = (set(p.sources[n].heldout.texts("document")) for p, n in ((fewer, "s"), (prepared, "own")))
    assert few < many


def test_a_document_keeps_its_side_when_rows_are_reordered_and_added(tmp_path: Path) -> None:
    rows = pairs(2000)

    def heldout(rows: list[dict[str, Any]], name: str) -> set[str]:
        prepared = prepare(data(source(tmp_path, rows), heldout_fraction=0.1), tmp_path / name)
        assert not set(prepared.sources["s"].train.texts("document")) & set(
            prepared.sources["s"].heldout.texts("document")
        )
        return set(prepared.sources["s"].heldout.texts("document"))

    before = heldout(rows, "before")
    assert 120 < len(before) < 280  # 200 ± 6 standard deviations
    random.Random(0).shuffle(rows)
    assert heldout(rows, "shuffled") == before
    assert {d for d in heldout(pairs(1000, "new ") + rows, "added") if not d.startswith("new ")} == before


def test_a_document_stands_on_one_side_in_all_sources_and_under_all_queries(tmp_path: Path) -> None:
    one = source(tmp_path, [{"q": f"q{i} {j}", "d": f"document {i}"} for i in range(300) for j in range(3)], name="one")
    two = source(tmp_path, [{"t": f"DOCUMENT  {i}"} for i in range(300)], "text", name="two")
    prepared = prepare(data(one, two, heldout_fraction=0.2), tmp_path / "out")
    assert prepared.counts["one"]["overlap"] == prepared.counts["two"]["overlap"] == 0
    assert prepared.counts["one"]["heldout"] == 3 * prepared.counts["two"]["heldout"] > 0


def test_an_original_and_its_translation_stand_on_one_side(tmp_path: Path) -> None:
    english = [{"t": f"text {i}"} for i in range(300)]
    german = [{"t": f"Text Nummer {i}", "en": f"text {i}"} for i in range(300)]
    prepared = prepare(
        data(
            source(tmp_path, english, "text", name="en"),
            source(tmp_path, german, "text", name="de", columns={"teacher_text": "en"}),
            heldout_fraction=0.2,
        ),
        tmp_path / "out",
    )
    de, en = prepared.sources["de"], prepared.sources["en"]
    assert de.heldout.teacher_texts("text") == en.heldout.texts("text")
    assert de.train.teacher_texts("text") == en.train.texts("text")
    assert prepared.counts["de"]["overlap"] == 0


def test_a_training_example_with_a_held_out_query_goes(tmp_path: Path) -> None:
    rows = [{"q": f"query {i // 2}", "d": f"document {i}"} for i in range(400)]  # each query has two documents
    prepared = prepare(data(source(tmp_path, rows), heldout_fraction=0.1), tmp_path / "out")
    train, heldout = halves(prepared)
    assert not train & heldout
    assert prepared.counts["s"]["overlap"] > 0
    assert_counts_add_up(prepared)


def test_near_duplicates_under_other_queries_do_not_straddle_the_split(tmp_path: Path) -> None:
    def document(group: int, copy: int) -> str:
        return " ".join([f"g{group}w{i}" for i in range(100)] + [f"copy{copy}"])

    rows = [{"q": f"q{g} {c}", "d": document(g, c)} for g in range(60) for c in range(4)]
    prepared = prepare(data(source(tmp_path, rows), heldout_fraction=0.2), tmp_path / "out")
    split = prepared.sources["s"]
    groups = [{d.split("w")[0] for d in half.texts("document")} for half in (split.train, split.heldout)]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert prepared.counts["s"]["overlap"] > 0


def test_negatives_that_stand_on_the_other_side_are_taken_out_of_their_triplets(tmp_path: Path) -> None:
    rows = [
        {"q": f"q{i}", "d": f"document {i}", "n": [f"document {(i + k) % 300}" for k in (1, 2)]} for i in range(300)
    ]
    prepared = prepare(data(source(tmp_path, rows, "triplet"), heldout_fraction=0.2), tmp_path / "out")
    split, counts = prepared.sources["s"], prepared.counts["s"]
    train, heldout = halves(prepared)
    assert not train & heldout
    assert counts["negatives_removed"] > 0
    assert all(split.train.negatives)  # one left without goes
    assert len(split.heldout) == counts["heldout"] > 30  # those stay, and some have none left
    assert () in split.heldout.negatives
    assert_counts_add_up(prepared)


def test_heldout_max_keeps_the_smallest_hashes_and_still_no_text_on_both_sides(tmp_path: Path) -> None:
    rows = [{"q": f"q{i} {j}", "d": f"document {i}"} for i in range(300) for j in range(3)]
    texts = [{"t": f"document {i}"} for i in range(300)]
    sources = (source(tmp_path, rows, name="one"), source(tmp_path, texts, "text", name="two"))
    everything = prepare(data(*sources, heldout_fraction=0.2), tmp_path / "all")
    capped = prepare(data(*sources, heldout_fraction=0.2, heldout_max=10), tmp_path / "capped")
    assert [len(split.heldout) for split in capped.sources.values()] == [10, 10]
    train, heldout = halves(capped)
    assert not train & heldout
    assert heldout < halves(everything)[1]
    assert {f"document {i}" for i in range(300)} == {t for t in train | heldout if t.startswith("document")}
    assert_counts_add_up(capped)


TEXTS = st.sampled_from(
    ["Alpha", "alpha ", "ALPHA", "beta", "Béta", "be\u0301ta", "gamma", "delta", "ε", "Ε", "zeta", "η"]
)
ROWS = {
    "pair": st.fixed_dictionaries({"q": TEXTS, "d": TEXTS}, optional={"te": TEXTS}),
    "triplet": st.fixed_dictionaries({"q": TEXTS, "d": TEXTS, "n": st.lists(TEXTS, min_size=1, max_size=3)}),
    "text": st.fixed_dictionaries({"t": TEXTS}, optional={"te": TEXTS}),
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.tuples(*(st.lists(ROWS[kind], min_size=1, max_size=12) for kind in ("pair", "triplet", "text"))),
    fraction=st.floats(0, 0.9),
    heldout_max=st.none() | st.integers(1, 3),
    threshold=st.none() | st.just(0.8),
)
def test_no_text_stands_on_both_sides(rows: Any, fraction: float, heldout_max: Any, threshold: Any) -> None:
    # texts that no rule can take away keep each source from running out of training examples
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filler = {
            "pair": [{"q": f"pq{i}", "d": f"pd{i}"} for i in range(60)],
            "triplet": [{"q": f"tq{i}", "d": f"td{i}", "n": [f"tn{i}"]} for i in range(60)],
            "text": [{"t": f"t{i}"} for i in range(60)],
        }
        columns = {"pair": {"teacher_document": "te"}, "triplet": {}, "text": {"teacher_text": "te"}}
        sources = [
            source(
                folder,
                [{**({"te": None} if columns[kind] else {}), **row} for row in [*given, *filler[kind]]],
                kind,
                name=kind,
                columns=columns[kind],
                max_malformed=99,
            )
            for kind, given in zip(filler, rows, strict=True)
        ]
        config = data(*sources, heldout_fraction=fraction, heldout_max=heldout_max, near_duplicate_threshold=threshold)
        prepared = prepare(config, folder / "out")
        train, heldout = halves(prepared)
        assert not train & heldout
        assert_counts_add_up(prepared)
        keys = [tuple(texts_of(e))[:2] for e in [*prepared.sources["pair"].train, *prepared.sources["pair"].heldout]]
        assert len(keys) == len(set(keys))


# ------------------------------------------------------------------------------- what goes wrong


def test_a_source_left_without_training_examples_is_an_error_with_its_counts(tmp_path: Path) -> None:
    empty = source(tmp_path, [{"q": "a", "d": "b"}, {"q": "a", "d": "b"}], name="tiny")
    with pytest.raises(DataError, match="source 'tiny' is left with no training examples .2 read, 2 too short"):
        prepare(data(source(tmp_path, pairs(3)), empty, min_chars=5), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_source_of_nothing_but_malformed_rows_is_an_error_with_its_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training examples .2 read, 2 malformed"):
        prepare(data(source(tmp_path, [{"q": "a"}, {"q": "b"}], max_malformed=5)), tmp_path / "out")


def test_an_error_in_a_source_leaves_the_folder_of_before(tmp_path: Path) -> None:
    prepare(data(source(tmp_path, pairs(3))), tmp_path / "out")
    with pytest.raises(DataError, match="malformed"):
        prepare(data(source(tmp_path, [*pairs(3), {"q": "a"}])), tmp_path / "out")
    assert len(Prepared.open(tmp_path / "out").sources["s"].train) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "s.jsonl"]


def test_prepare_replaces_its_own_folder_and_refuses_another(tmp_path: Path) -> None:
    prepare(data(source(tmp_path, pairs(3))), tmp_path / "out")
    assert len(prepare(data(source(tmp_path, pairs(7))), tmp_path / "out").sources["s"].train) == 7
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("ten years")
    with pytest.raises(DataError, match="exists and was not written by prepare"):
        prepare(data(source(tmp_path, pairs(3))), tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "ten years"


def test_a_folder_with_nothing_but_hidden_notes_of_an_attempt_that_failed_is_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".seconds.json").write_text("{}")
    assert len(prepare(data(source(tmp_path, pairs(3))), tmp_path / "out").sources["s"].train) == 3


def test_a_torn_or_foreign_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared folder"):
        Prepared.open(tmp_path)
    prepared = prepare(data(source(tmp_path, pairs(3000)), heldout_fraction=0.1), tmp_path / "out")
    table = prepared.sources["s"].train.path
    whole = table.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    table.write_bytes(changed)
    with pytest.raises(DataError, match=r"train\.arrow .* has changed since it was written"):
        prepared.verify()
    table.write_bytes(whole)
    prepared.verify()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train\.arrow cannot be read .*delete"):
        Prepared.open(tmp_path / "out")
    table.unlink()
    with pytest.raises(DataError, match=r"train\.arrow cannot be read"):
        Prepared.open(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is not valid JSON"):
        Prepared.open(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match="is not of format"):
        Prepared.open(tmp_path / "out")


def run_python(script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_a_killed_prepare_leaves_the_folder_of_before_and_the_next_one_clears_up(tmp_path: Path, moment: str) -> None:
    config = data(source(tmp_path, pairs(3000)))
    (tmp_path / "data.json").write_text(config.model_dump_json())
    prepare(data(source(tmp_path, pairs(5), name="old")), tmp_path / "out")
    script = """
        import os, signal, sys
        from pathlib import Path
        import limbeck.data.prepare as module
        from limbeck.config import Data

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if sys.argv[3] == "writing":
            module.write_json = die  # everything but the manifest is there
        config = Data.model_validate_json(Path(sys.argv[1]).read_text())
        module.prepare(config, Path(sys.argv[2]), progress=die if sys.argv[3] == "reading" else None)
    """
    result = run_python(script, tmp_path / "data.json", tmp_path / "out", moment)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert list(Prepared.open(tmp_path / "out").sources) == ["old"]
    assert len(list(tmp_path.glob(".out.*.tmp"))) == 1
    assert len(prepare(config, tmp_path / "out").sources["s"].train) == 3000
    assert not list(tmp_path.glob(".out.*.tmp"))


@pytest.mark.parametrize("limit", [10_000, 300_000])  # within the first write, and within the tables
def test_a_full_disk_leaves_nothing_half_written_and_is_named(tmp_path: Path, limit: int) -> None:
    config = data(source(tmp_path, pairs(20_000)))
    (tmp_path / "data.json").write_text(config.model_dump_json())
    script = """
        import resource, sys
        from pathlib import Path
        from limbeck.config import Data
        from limbeck.data.prepare import prepare
        from limbeck.errors import DataError

        config = Data.model_validate_json(Path(sys.argv[1]).read_text())
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
        try:
            prepare(config, Path(sys.argv[2]))
        except DataError as error:
            print(error)
    """
    result = run_python(script, tmp_path / "data.json", tmp_path / "out", limit)
    assert result.returncode == 0, result.stderr
    assert f"the disk is full: {tmp_path}/out could not be written" in result.stdout
    assert "bytes are free" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.json", "s.jsonl"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_that_runs_full_is_left_empty(tmp_path: Path, small_disk: Path) -> None:
    with pytest.raises(DataError, match=r"the disk is full: .*No space left on device.*bytes are free"):
        prepare(data(source(tmp_path, pairs(20_000))), small_disk / "out")
    assert list(small_disk.iterdir()) == []
