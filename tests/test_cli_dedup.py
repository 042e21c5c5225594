"""`limbeck dedup` as it is typed: what it writes, prints and refuses."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "model"), str(TESTS / "dedup")]  # for the modules there that are no tests

from dictated import Dictated  # noqa: E402
from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402
from commands import typed  # noqa: E402
from limbeck import cli, cli_parts  # noqa: E402
from limbeck.dedup import run as module  # noqa: E402

Run = Callable[..., tuple[int, str, str]]


class Letters(Dictated):
    """Vectors are counts of letters and of pairs of them, so that near texts have near vectors."""

    def __init__(self) -> None:
        super().__init__({"": np.ones(64)})

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        for text in texts:
            vector = np.zeros(64)
            for a, b in zip(text, text[1:] + " ", strict=True):
                vector[ord(a) % 64] += 1
                vector[(ord(a) * 31 + ord(b)) % 64] += 1
            self.vectors[text] = np.zeros(64) if "zz" in text else vector
        return super().encode(texts, **options)


ROWS = [
    {"body": "joins two tables", "key": "a", "stars": 3},
    {"body": "splits a string", "key": "b", "stars": 4},
    {"body": "joins two tables.", "key": "c", "stars": 5},
    {"body": "joins two tables", "key": "d", "stars": 6},
    {"body": "über, größer", "key": "e", "stars": 7},
    {"body": "splits a string!", "key": "f", "stars": 8},
]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Letters:
    made = Letters()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("in.txt").write_text("".join(f"{row['body']}\r\n" for row in ROWS))

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, "dedup", "m", *arguments)

    return call


NAMED = ["in.jsonl", "--field", "body", "--id", "key", "--threshold", 0.9]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_groups_have_the_kept_row_first_and_copies_at_score_one(model: Letters, run: Run) -> None:
    code, out, err = run(*NAMED, "--out", "made/found.jsonl")
    found = lines(Path("made/found.jsonl").read_text())
    assert (code, out) == (0, "") and "3 duplicates in 2 groups among 6 texts" in err
    assert [(r["group"], r["id"], r["kept"]) for r in found] == [
        (1, "a", True), (1, "c", False), (1, "d", False), (2, "b", True), (2, "f", False),
    ]  # fmt: skip
    assert [r["score"] for r in found][::2] == [1, 1, found[4]["score"]] and 0.9 <= found[1]["score"] < 1
    assert found[1]["text"] == "joins two tables." and model.asked[-1] == "text-matching"
    assert sorted(path.name for path in Path("made").iterdir()) == ["found.jsonl"]


def test_the_longest_is_kept_and_rows_are_numbered_where_there_are_no_ids(model: Letters, run: Run) -> None:
    code, out, _ = run("in.txt", "--threshold", 0.9, "--keep", "longest")
    assert code == 0
    assert [(r["group"], r["id"], r["kept"]) for r in lines(out)] == [
        (1, 3, True), (1, 1, False), (1, 4, False), (2, 6, True), (2, 2, False),
    ]  # fmt: skip


def test_csv_has_the_same_rows(model: Letters, run: Run) -> None:
    assert run(*NAMED, "--out", "found.csv")[0] == 0 and run(*NAMED, "--out", "found.jsonl")[0] == 0
    with open("found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = lines(Path("found.jsonl").read_text())
    assert rows == [{name: str(int(v) if isinstance(v, bool) else v) for name, v in row.items()} for row in expected]


@pytest.mark.parametrize(("source", "options"), [("in.txt", []), ("in.jsonl", ["--field", "body"])])
def test_the_input_without_its_duplicates_is_the_lines_as_they_are(
    source: str, options: list[str], model: Letters, run: Run
) -> None:
    code, _, err = run(source, *options, "--threshold", 0.9, "--out", "found.jsonl", "--kept", "clean.out")
    assert code == 0 and "3 texts that are kept → clean.out" in err
    before = Path(source).read_text().splitlines()
    assert Path("clean.out").read_text().splitlines() == [before[0], before[1], before[4]]


def test_parquet_keeps_its_columns(model: Letters, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), "in.parquet")
    options = ["--field", "body", "--threshold", 0.9, "--out", "found.jsonl", "--kept", "clean.parquet"]
    assert run("in.parquet", *options)[0] == 0
    assert pq.read_table("clean.parquet").to_pylist() == [ROWS[0], ROWS[1], ROWS[4]]


def test_pairs_are_all_that_are_near_and_each_copy_with_the_first(model: Letters, run: Run) -> None:
    code, out, err = run(*NAMED, "--pairs")
    found = lines(out)
    assert code == 0 and "3 near pairs" in err
    assert {(r["id_a"], r["id_b"]) for r in found} == {("d", "a"), ("c", "a"), ("f", "b")}
    assert found[0]["score"] == 1 and found[0]["text_a"] == found[0]["text_b"] == "joins two tables"
    assert run(*NAMED, "--pairs", "--out", "pairs.csv")[0] == 0
    assert Path("pairs.csv").read_text().splitlines()[0] == "id_a,id_b,score,text_a,text_b"


def test_a_pipe_in_a_pipe_out_and_json_on_the_stream_that_is_free(
    model: Letters, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one two\nthree\none two\n")))
    code, out, err = run("--threshold", 0.9, "--json")
    assert code == 0 and [r["id"] for r in lines(out)] == [1, 3]
    said = json.loads(err)
    assert {name: said[name] for name in ("texts", "different", "groups", "duplicates", "pairs", "threshold")} == {
        "texts": 3, "different": 2, "groups": 1, "duplicates": 1, "pairs": None, "threshold": 0.9,
    }  # fmt: skip
    assert said["rests_on"] == "nothing" and said["precision"] is None
    _, out, err = run("in.txt", "--threshold", 0.9, "--json", "--out", "x.jsonl")
    assert json.loads(out)["duplicates"] == 3 and err == ""


def test_no_duplicates_are_an_empty_file(model: Letters, run: Run) -> None:
    Path("few.txt").write_text("abc\nxyw\n")
    assert run("few.txt", "--threshold", 0.99, "--out", "none.jsonl")[0] == 0
    assert Path("none.jsonl").read_text() == ""


def test_labelled_pairs_choose_the_threshold(model: Letters, run: Run) -> None:
    pairs = [{"text_a": "joins two tables", "text_b": "joins two tables?", "label": 1}] * 20
    pairs += [{"text_a": "joins two tables", "text_b": "xyw", "label": 0}] * 20
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    code, out, err = run("in.txt", "--labelled", "pairs.jsonl", "--json", "--out", "x.jsonl")
    said = json.loads(out)
    assert code == 0 and (said["rests_on"], said["precision"], said["recall"], said["sample"]) == ("labels", 1, 1, 40)
    assert said["low"] == pytest.approx(0.8389, abs=1e-4) and said["duplicates"] == 2  # Wilson, 20 of 20
    _, _, err = run("in.txt", "--labelled", "pairs.jsonl", "--out", "x.jsonl")
    assert "expected precision 1.000 (95% interval 0.839 to 1.000), recall 1.000, of 40 labelled pairs" in err


def test_without_labels_the_texts_calibrate_themselves(model: Letters, run: Run) -> None:
    words = np.random.default_rng(0).choice([*"abcdefghijklmnopqrstuvwxy"], (300, 12, 5))
    texts = [" ".join("".join(word) for word in text) for text in words]
    Path("many.txt").write_text("".join(f"{text}\n" for text in [*texts, texts[7] + ".", texts[8].upper()]))
    code, out, err = run("many.txt", "--precision", 0.9, "--json", "--out", "x.jsonl")
    said = json.loads(out)
    assert (code, err) == (0, "") and said["rests_on"] == "edits" and said["sample"] == 302
    assert said["precision"] >= 0.9 and said["low"] < said["precision"] < said["high"]
    assert [r["id"] for r in lines(Path("x.jsonl").read_text())] == [8, 301]
    given = run("many.txt", "--threshold", said["threshold"], "--json", "--out", "y.jsonl")
    assert json.loads(given[1])["precision"] == said["precision"]
    assert Path("y.jsonl").read_bytes() == Path("x.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", ["--threshold", 0.9], "bad.txt holds no texts"),
        (b"a\n\xff\n", ["--threshold", 0.9], "bad.txt:2: not UTF-8"),
        (b"a\nzz\n", ["--threshold", 0.9], "line 2 has a vector that is all zeros"),
        (b'{"t": "a"}\n{"u": "b"}\n', ["--field", "t", "--threshold", 0.9], "bad.txt:2: no text in field 't'"),
        (b'{"t": "a", "i": 1}\n{"t": "b", "i": 1}\n', ["--field", "t", "--id", "i", "--threshold", 0.9],
         "line 2: the id 1 came before"),
        (b"a\nb\n", [], "2 different texts are too few to choose a threshold by"),
        (b"a\n", ["--threshold", 2], "a threshold is a cosine, from -1 to 1, got 2"),
        (b"a\n", ["--threshold", 0.9, "--precision", 0.9], "given or chosen for a precision, not both"),
        (b"a\n", ["--precision", 1], "above 0 and below 1, got 1"),
        (b"a\n", ["--threshold", 0.9, "--pairs", "--kept", "k.txt"], "leave out --pairs or --kept"),
        (b"a\n", ["--threshold", 0.9, "--kept", "k.parquet"], "does not end in .parquet"),
        (b"a\n", ["--threshold", 0.9, "--kept", "found.jsonl"], "cannot both go to found.jsonl"),
        (b"a\n", ["--threshold", 0.9, "--dim", 65], "dim must be from 1 to 64"),
        (b"a\n", ["--labelled", "none.jsonl"], "no such file: none.jsonl"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_message_and_nothing_is_written(
    content: bytes, arguments: list[object], message: str, model: Letters, run: Run
) -> None:
    Path("bad.txt").write_bytes(content)
    code, out, err = run("bad.txt", "--out", "found.jsonl", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("limbeck: ") and message in err and err.count("\n") == 1
    assert names() == ["bad.txt", "in.jsonl", "in.txt"]


def test_outputs_that_cannot_be_are_refused_before_texts_are_encoded(model: Letters, run: Run) -> None:
    for out, message in [("found.txt", "end it in .jsonl or .csv"), (".", ". is a folder")]:
        code, _, err = run("in.txt", "--threshold", 0.9, "--out", out)
        assert code == 1 and message in err
    code, _, err = run("--threshold", 0.9, "--kept", "clean.txt")
    assert code == 1 and "standard input or a pipe cannot be" in err and model.calls == []


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_one_that_is_stopped_while_it_writes_leaves_both_files_as_they_were(
    stopped: BaseException, model: Letters, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("found.jsonl").write_text("before")
    Path("clean.jsonl").write_text("before")

    def stop(*_: object) -> None:
        raise stopped

    monkeypatch.setattr(module, "write_rest", stop)
    code, _, err = run(*NAMED, "--out", "found.jsonl", "--kept", "clean.jsonl")
    assert code != 0 and (stopped is KeyboardInterrupt or "the disk is full" in err)
    assert Path("found.jsonl").read_text() == Path("clean.jsonl").read_text() == "before"
    assert names() == ["clean.jsonl", "found.jsonl", "in.jsonl", "in.txt"]


def test_an_input_that_changes_meanwhile_is_an_error(model: Letters, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.group

    def grow(*arguments: Any, **options: Any) -> Any:
        with open("in.jsonl", "a") as file:
            file.write("{}\n")
        return whole(*arguments, **options)

    monkeypatch.setattr(module, "group", grow)
    code, _, err = run(*NAMED, "--out", "found.jsonl", "--kept", "clean.jsonl")
    assert code == 1 and "the input had 6 rows, and has 7 now" in err and names() == ["in.jsonl", "in.txt"]


def test_bars_come_one_after_the_other_on_a_terminal(model: Letters, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    screen = io.StringIO()
    monkeypatch.setattr(cli_parts, "console", lambda stream: Console(file=screen, force_terminal=True, width=160))
    assert run(*NAMED, "--out", "found.jsonl")[0] == 0
    assert "encoding" in screen.getvalue() and "comparing" in screen.getvalue()


@pytest.mark.parametrize("arguments", [["--keep", "best"], ["--group", "any"], ["--dim", 0]])
def test_wrong_usage_is_exit_code_2(arguments: list[object], model: Letters, run: Run) -> None:
    assert run("in.txt", *arguments)[0] == 2
    assert model.calls == []


def test_a_bundle_finds_duplicates_by_its_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = save_model(tmp_path / "bert", "Bert", wordpiece())
    section = student(init="pruned", pruned={"layers": [0, 2]})
    bundle = adapted_bundle(tmp_path / "model", section, bert, ("retrieval", "text-matching"))
    texts = ["join two tables", "split a string", "", "日本語 🙂", "join two tables", "Join two tables"]
    (tmp_path / "in.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    with pytest.raises(SystemExit) as ended:
        cli.main(["dedup", str(bundle), str(tmp_path / "in.txt"), "--threshold", "0.999", "--out", str(out), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code in (0, None) and (said["texts"], said["task"]) == (6, "text-matching")
    encoded = limbeck.load(str(bundle)).encode(texts, task="text-matching")
    cosines = np.asarray(encoded) @ np.asarray(encoded).T
    groups: dict[int, set[int]] = {}
    for row in lines(out.read_text(encoding="utf-8")):
        groups.setdefault(row["group"], set()).add(row["id"] - 1)
    assert {0, 4} <= groups[1] and all(cosines[min(g), i] > 0.998 for g in groups.values() for i in g)
