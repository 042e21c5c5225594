"""`limbeck cluster` as it is typed: what it writes, prints and refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "model"), str(TESTS / "encoding")]  # for the modules there that are no tests

from counting import CountingEncoder  # noqa: E402
from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402
from commands import typed  # noqa: E402
from limbeck import cli  # noqa: E402
from limbeck.cluster import folder as folders  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

FILES = ["assignments.jsonl", "map.html", "topics.json"]
TEXTS = [text for n in range(1, 6) for text in ("a" * n, "b" * n, "d" * n)]  # three letters, which are its clusters


class Model(CountingEncoder):
    """It remembers what it was asked for, and has zeros for a text of z's."""

    tasks = ("retrieval", "clustering")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        vectors = super().encode(texts, **options)
        if not texts:  # whether the options fit
            return vectors
        self.asked.append(options)
        letters = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32)
        return np.where(letters.any(axis=1, keepdims=True), letters[:, : vectors.shape[1]], 0 * vectors + 1) * [
            [0.0] if "z" in text else [1.0] for text in texts
        ]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("".join(text + "\n" for text in TEXTS))
    rows = [{"body": text, "key": f"k{i}"} for i, text in enumerate(TEXTS)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, "cluster", "m", *arguments)

    return call


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_folder_holds_assignments_topics_and_a_map(model: Model, run: Run) -> None:
    code, out, _ = run("in.txt", "--out", "made/here")
    assert code == 0 and "15 texts in 3 clusters by k-means, silhouette 1.000" in out
    assert sorted(path.name for path in Path("made/here").iterdir()) == FILES
    found = lines("made/here/assignments.jsonl")
    assert [row["text"] for row in found] == TEXTS
    assert [row["cluster"] for row in found] == [found[0]["cluster"], found[1]["cluster"], found[2]["cluster"]] * 5
    assert {row["distance"] for row in found} == {0.0} and "membership" not in found[0]
    topics = json.loads(Path("made/here/topics.json").read_text())
    assert (topics["k"], topics["texts"], topics["noise"]) == (3, 15, 0)
    assert [c["size"] for c in topics["clusters"]] == [5, 5, 5] and topics["tried"]["3"] == 1
    assert topics["clusters"][0]["central"][0] in TEXTS
    assert "15 texts in 3 clusters" in Path("made/here/map.html").read_text()
    assert model.asked[0]["task"] == "clustering"


def test_ids_stand_in_place_of_texts_and_there_need_be_no_map(model: Model, run: Run) -> None:
    options = ["--field", "body", "--id", "key", "--no-map", "--k", 2, "--task", "retrieval", "--dim", 4]
    assert run("in.jsonl", "--out", "made", *options)[0] == 0
    assert sorted(path.name for path in Path("made").iterdir()) == ["assignments.jsonl", "topics.json"]
    found = lines("made/assignments.jsonl")
    assert [row["id"] for row in found] == [f"k{i}" for i in range(15)] and "text" not in found[0]
    assert {row["cluster"] for row in found} == {0, 1}
    assert (model.asked[0]["task"], model.asked[0]["dim"]) == ("retrieval", 4)


def test_hdbscan_has_memberships_and_noise_without_a_distance(model: Model, run: Run) -> None:
    mixed = ["abc", "bdf", "adh", "ceg", "fgh", "abdh"]
    Path("odd.txt").write_text("".join(text + "\n" for text in [*TEXTS, *mixed]))
    code, out, _ = run("odd.txt", "--out", "made", "--method", "hdbscan", "--min-size", 4)
    found = lines("made/assignments.jsonl")
    assert code == 0 and "in 3 clusters by HDBSCAN" in out and "; 4 in none" in out
    assert found[-1] == {"text": "abdh", "cluster": -1, "distance": None, "membership": 0.0}
    assert max(row["membership"] for row in found) == 1
    assert [row["cluster"] for row in found[:15]] == [row["cluster"] for row in found[:3]] * 5
    assert json.loads(Path("made/topics.json").read_text())["noise"] == 4


def test_an_earlier_clustering_is_replaced_by_the_same_bytes(model: Model, run: Run) -> None:
    assert run("in.txt", "--out", "made")[0] == 0
    before = {name: Path("made", name).read_bytes() for name in FILES}
    assert run("in.txt", "--out", "made")[0] == 0
    assert {name: Path("made", name).read_bytes() for name in FILES} == before


def test_without_a_folder_clusters_are_printed_and_nothing_is_written(model: Model, run: Run) -> None:
    code, out, _ = run("in.txt", "--k", 3)
    assert code == 0 and "15 texts in 3 clusters" in out and "for example" in out
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "in.txt"]


def test_a_pipe_in_and_a_pipe_out(model: Model, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"aa\nb\naaa\n")))
    code, out, err = run("--out", "-", "--k", 2)
    assert code == 0
    assert [json.loads(line)["cluster"] for line in out.splitlines()] == [0, 1, 0]
    assert "3 texts in 2 clusters" in err


def test_json_is_one_object_on_the_stream_that_is_free(model: Model, run: Run) -> None:
    code, out, err = run("in.txt", "--k", 3, "--json")
    assert (code, err) == (0, "") and json.loads(out)["k"] == 3
    _, out, err = run("in.txt", "--k", 3, "--json", "--out", "-")
    assert json.loads(err)["k"] == 3 and len(out.splitlines()) == 15


def test_texts_are_printed_as_they_are(model: Model, run: Run) -> None:
    Path("marked.txt").write_text("[red]aaa[/red] [/]\nbbb\n")
    code, out, _ = run("marked.txt", "--k", 2)
    assert code == 0 and "[red]aaa[/red] [/]" in out


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "bad.txt holds no texts"),
        (b"a\n\xff\n", [], "bad.txt:2: not UTF-8"),
        (b"a\nzz\nzz\n", [], "line 2 has a vector that is all zeros"),
        (b"a\n\n", ["--k", 3], "cannot make 3 clusters of so few texts (2): ask for 2 or fewer"),
        (b'{"t": "a"}\n{"u": "b"}\n', ["--field", "t"], "bad.txt:2: no text in field 't'"),
        (b"a\n", ["--method", "hdbscan", "--k", 2], "leave k out, or take k-means"),
        (b"a\n", ["--out", "bad.txt"], "bad.txt is a file: name a folder"),
        (b"a\n", ["--out", "."], ". holds other files (bad.txt, in.jsonl, in.txt): name a new folder"),
    ],
)
def test_what_does_not_fit_is_one_message_and_nothing_is_written(
    content: bytes, arguments: list[object], message: str, model: Model, run: Run
) -> None:
    Path("bad.txt").write_bytes(content)
    code, out, err = run("bad.txt", *(arguments if "--out" in arguments else [*arguments, "--out", "made"]))
    assert (code, out) == (1, "")
    assert err.startswith("limbeck: ") and message in err and err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["bad.txt", "in.jsonl", "in.txt"]


@pytest.mark.parametrize("arguments", [["--k", 0], ["--method", "ward"], ["--min-size", 1]])
def test_wrong_usage_is_exit_code_2(arguments: list[object], model: Model, run: Run) -> None:
    assert run("in.txt", *arguments)[0] == 2
    assert model.calls == []


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, OSError])
def test_one_that_is_stopped_while_it_writes_leaves_the_earlier_clustering(
    stopped: type[BaseException], model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("in.txt", "--out", "made", "--k", 3)[0] == 0
    before = {name: Path("made", name).read_bytes() for name in FILES}

    def stop(*_: object) -> None:
        raise stopped

    monkeypatch.setattr(folders, "write_map", stop)
    assert run("in.txt", "--out", "made", "--k", 2)[0] != 0
    assert {name: Path("made", name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "in.txt", "made"]


def test_too_many_texts_for_hdbscan_are_refused_before_they_are_encoded(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.cluster.groups.HDBSCAN_MOST", 14)
    code, _, err = run("in.txt", "--method", "hdbscan")
    assert code == 1 and "for up to 14 texts, got 15" in err and model.calls == []


@pytest.mark.parametrize("missing", ["sklearn", "jinja2"])
def test_a_library_that_is_missing_is_named_before_texts_are_encoded(
    missing: str, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = run("in.txt", "--out", "made")
    assert code == 1 and f"this needs {missing}" in err and model.calls == []


def test_a_bundle_clusters_by_its_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = save_model(tmp_path / "bert", "Bert", wordpiece())
    section = student(init="pruned", pruned={"layers": [0, 2]})
    bundle = adapted_bundle(tmp_path / "model", section, bert, ("retrieval", "clustering"))
    texts = ["join two tables", "split a string", "", "日本語 🙂", "the key of a table", "join two tables"]
    (tmp_path / "in.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", str(bundle), str(tmp_path / "in.txt"), "--out", str(tmp_path / "out"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code in (0, None) and said["texts"] == 6
    found = lines(str(tmp_path / "out/assignments.jsonl"))
    assert [row["text"] for row in found] == texts and found[0]["cluster"] == found[5]["cluster"]
    from limbeck.cluster import cluster

    vectors = limbeck.load(str(bundle)).encode(texts, task="clustering")
    assert [row["cluster"] for row in found] == cluster(vectors, texts).labels.tolist()
