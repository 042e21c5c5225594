"""`limbeck classify` as it is typed: pipes, reports, and what is said when something does not fit."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent / "classify")]  # for the modules there that are no tests

from toy import LetterModel  # noqa: E402

import limbeck  # noqa: E402
from commands import typed  # noqa: E402
from limbeck.classify import predict as predicting  # noqa: E402
from limbeck.classify.saved import Classifier  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
EXAMPLES = [{"text": f"{letter * n} x", "label": label} for n in range(1, 7) for letter, label in ("aA", "bB", "hH")]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LetterModel:
    made = LetterModel()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made if path == "m" else LetterModel(path))
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.chdir(tmp_path)
    write("examples.jsonl", EXAMPLES)

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, "classify", *arguments)

    return call


def write(name: str, rows: list) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


# ------------------------------------------------------------------------------------------------- train


def test_training_says_how_good_it_is_and_json_holds_all_of_it(model: LetterModel, run: Run) -> None:
    code, out, err = run("train", "m", "examples.jsonl", "--out", "c")
    assert (code, err) == (0, "")
    assert "out of fold, 5 folds (18 texts, 3 labels)" in out and "confusion matrix" in out
    assert "accuracy           1.000  (the commonest label alone: 0.333)" in out
    assert "wrote c: 18 examples, strength " in out and "(calibrated)" in out
    code, out, err = run("train", "m", "examples.jsonl", "--out", "c", "--json")
    found = json.loads(out)
    assert found["fingerprint"] == "letters classification" and found["task"] == "classification"
    assert found["report"]["confusion"] == [[6, 0, 0], [0, 6, 0], [0, 0, 6]]
    assert {"accuracy", "macro_f1", "ece", "ece_before", "log_loss", "log_loss_before"} <= set(found["report"])


def test_a_model_without_adapters_and_other_fields_and_a_narrower_vector(model: LetterModel, run: Run) -> None:
    model.tasks = []
    write("e.jsonl", [{"body": row["text"], "kind": ord(row["label"])} for row in EXAMPLES])
    found = json.loads(run("train", "m", "e.jsonl", "--field", "body", "--label", "kind", "--dim", 4, "--out", "c",
                           "--json")[1])  # fmt: skip
    assert (found["task"], found["dim"], found["labels"]) == (None, 4, [65, 66, 72])
    Path("in.txt").write_text("bbb\n")
    assert read(run("predict", "c", "m", "in.txt")[1])[0]["label"] == 66


def test_the_task_auto_is_settled_by_the_examples(model: LetterModel, run: Run) -> None:
    found = json.loads(run("train", "m", "examples.jsonl", "--task", "auto", "--out", "c", "--json")[1])
    assert found["task"] == "classification=0.75,clustering=0.25"


def test_repeated_and_contradictory_and_single_examples_are_told_and_not_scored(model: LetterModel, run: Run) -> None:
    more = [EXAMPLES[0], EXAMPLES[0], {"text": "aaa x", "label": "B"}, {"text": "cc", "label": "C"}]
    write("e.jsonl", EXAMPLES + more)
    code, out, err = run("train", "m", "e.jsonl", "--out", "c")
    assert code == 0 and "(17 texts, 4 labels)" in out and "wrote c: 20 examples" in out
    assert "text and label came before: 2" in err
    assert "text has another label elsewhere: 2 (line 7, line 21)" in err
    assert "a single example, which is learnt from and not scored: C" in err


def test_one_example_of_each_label_is_a_classifier_of_unknown_quality(model: LetterModel, run: Run) -> None:
    write("e.jsonl", EXAMPLES[:3])
    code, out, err = run("train", "m", "e.jsonl", "--out", "c")
    assert code == 0 and "(not calibrated)" in out and "how good the classifier is, is not known" in err
    assert read(run("predict", "c", "m", "examples.jsonl", "--field", "text")[1])[5]["label"] == "H"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "A"}, {"text": "b"}], "e.jsonl:2: no label (text, or whole number of 64 bits) in "
         "field 'label', the row has text"),
        ([{"text": "a", "label": "A"}, {"label": "B"}], "e.jsonl:2: no text in field 'text', the row has label"),
        ([{"text": "a", "label": "A"}, {"text": "b", "label": 1}], "e.jsonl:2: label 1 is of type int, those before"),
        ([{"text": "a", "label": None}], "e.jsonl:1: no label"),
        ([{"text": "a", "label": "\ud800"}], "line 1: the label '\\ud800' is not valid Unicode"),
        ([{"text": "a", "label": "A"}, {"text": "b", "label": "A"}], "all 2 examples have the label 'A'"),
        ([], "e.jsonl holds no texts"),
        ([{"text": "a", "label": "A"}, {"text": "\ud800", "label": "B"}], "line 2 is not valid Unicode"),
    ],
)  # fmt: skip
def test_examples_that_do_not_fit_are_named_with_their_line(
    rows: list, message: str, model: LetterModel, run: Run
) -> None:
    write("e.jsonl", rows)
    code, out, err = run("train", "m", "e.jsonl", "--out", "c")
    assert (code, out) == (1, "") and err.startswith("limbeck: ") and message in err
    assert names() == ["e.jsonl", "examples.jsonl"]


def test_another_encoding_is_said(model: LetterModel, run: Run) -> None:
    Path("e.jsonl").write_bytes('{"text": "größe", "label": "A"}\n'.encode("latin1"))
    assert "e.jsonl:1: not UTF-8" in run("train", "m", "e.jsonl", "--out", "c")[2]


def test_a_folder_of_other_things_is_not_replaced(model: LetterModel, run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/file").write_text("")
    code, _, err = run("train", "m", "examples.jsonl", "--out", "mine")
    assert code == 1 and "mine is there, and is no classifier" in err and Path("mine/file").exists()
    assert model.calls == []


# ------------------------------------------------------------------------------------------------- predict


@pytest.fixture
def trained(model: LetterModel, run: Run) -> str:
    assert run("train", "m", "examples.jsonl", "--out", "c")[0] == 0
    return "c"


def test_a_pipe_in_and_a_pipe_out(trained: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"t": "aaa", "n": 7}\n{"t": "hh", "n": 9}\n')))
    code, out, err = run("predict", trained, "m", "--field", "t", "--id", "n", "--all", "--json")
    rows = read(out)
    assert code == 0 and [(row["id"], row["label"]) for row in rows] == [(7, "A"), (9, "H")]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert max(row["probabilities"].values()) == row["probability"] == row["probabilities"][row["label"]]
        assert next(iter(row["probabilities"])) == row["label"]
    stats = json.loads(err)
    assert (stats["texts"], stats["labels"], stats["out"]) == (2, {"A": 1, "H": 1}, "-")


def test_examples_from_a_pipe(model: LetterModel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("examples.jsonl").read_bytes())))
    assert run("train", "m", "-", "--out", "c")[0] == 0
    assert Classifier.load("c").manifest.examples == 18


def test_lines_packed_or_not_become_a_file_in_their_order_whatever_the_chunk(
    trained: str, model: LetterModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a" * (i % 3 + 1) if i % 2 else "b" * 60 for i in range(25)]
    Path("in.txt.gz").write_bytes(gzip.compress("".join(f"{text}\n" for text in texts).encode()))
    code, out, err = run("predict", trained, "m", "in.txt.gz", "--out", "whole.jsonl")
    assert (code, out) == (0, "") and "25 texts → whole.jsonl" in err
    assert "B 13, A 12; 13 of them cut at 50 tokens" in err
    monkeypatch.setattr(predicting, "_CHUNK", 4)
    model.calls.clear()
    assert json.loads(run("predict", trained, "m", "in.txt.gz", "--out", "parts.jsonl", "--json")[1])["texts"] == 25
    assert max(map(len, model.calls)) == 4
    assert Path("parts.jsonl").read_text() == Path("whole.jsonl").read_text()
    assert [row["text"] for row in read(Path("whole.jsonl").read_text())] == texts


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_what_is_interrupted_leaves_nothing_half_written(
    error: BaseException, code: int, trained: str, model: LetterModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_CHUNK", 2)
    Path("in.txt").write_text("a\nb\nh\na\n")
    Path("labels.jsonl").write_text("earlier\n")

    def fail(texts: int) -> None:
        if texts and model.calls[-1:] == [["a", "b"]]:
            raise error

    model.before, before = fail, names()
    model.calls.clear()
    for out in ("labels.jsonl", "new.jsonl"):
        assert run("predict", trained, "m", "in.txt", "--out", out)[0] == code
        assert model.calls == [["a", "b"]]  # it was in the midst of it
        model.calls.clear()
    assert names() == before and Path("labels.jsonl").read_text() == "earlier\n"


def test_another_model_is_refused_before_anything_is_written(trained: str, run: Run) -> None:
    Path("in.txt").write_text("a\n")
    code, out, err = run("predict", trained, "another", "in.txt", "--out", "l.jsonl")
    assert (code, out) == (1, "") and "made with the model letters" in err and "this is another" in err
    assert not Path("l.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.txt", "--out", "l.csv"], "written as JSON lines, not to 'l.csv'"),
        (["in.jsonl"], "in.jsonl holds JSON: name the field of the text"),
        (["in.jsonl", "--field", "body"], "in.jsonl:2: no text in field 'body', the row has other"),
        (["none.txt"], "no such file: none.txt"),
        (["empty.txt"], "empty.txt holds no texts"),
        (["latin.txt"], "latin.txt:1: not UTF-8"),
    ],
)
def test_input_that_does_not_fit_is_said(arguments: list[str], message: str, trained: str, run: Run) -> None:
    Path("in.txt").write_text("a\n")
    write("in.jsonl", [{"body": "a"}, {"other": "b"}])
    Path("empty.txt").write_text("")
    Path("latin.txt").write_bytes("größe".encode("latin1"))
    before = names()
    code, _, err = run("predict", trained, "m", *arguments, *([] if "--out" in arguments else ["--out", "l.jsonl"]))
    assert code == 1 and message in err and names() == before


def test_what_is_no_classifier_is_said(model: LetterModel, run: Run) -> None:
    code, _, err = run("predict", "nowhere", "m", "examples.jsonl")
    assert code == 1 and "nowhere is no classifier" in err and model.calls == []


# --------------------------------------------------------------------------------------------------- test


def test_a_classifier_is_scored_on_other_examples(trained: str, run: Run) -> None:
    write("held.jsonl", [{"text": "aa", "label": "A"}, {"text": "bb", "label": "A"}, {"text": "hhh", "label": "H"}])
    found = json.loads(run("test", trained, "m", "held.jsonl", "--json")[1])
    assert found["accuracy"] == pytest.approx(2 / 3) and found["confusion"] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert "confusion matrix" in run("test", trained, "m", "held.jsonl")[1]
    write("held.jsonl", [{"text": "aa", "label": "A"}, {"text": "bb", "label": "X"}])
    code, _, err = run("test", trained, "m", "held.jsonl")
    assert code == 1 and "line 2: unknown label 'X'; the 3 that are known are 'A', 'B', 'H'" in err


# ---------------------------------------------------------------------------------------------- zero-shot


def test_labels_are_given_by_name_and_by_file_alike(model: LetterModel, run: Run) -> None:
    Path("in.txt").write_text("aaab\nhhh\n")
    named = run("zero-shot", "m", "in.txt", "--label", "a=aaa", "--label", "h", "--all")[1]
    assert [row["label"] for row in read(named)] == ["a", "h"]
    write("labels.jsonl", [{"label": "a", "description": "aaa"}, {"label": "h"}])
    assert run("zero-shot", "m", "in.txt", "--labels", "labels.jsonl", "--all")[1] == named


def test_zero_shot_is_calibrated_by_examples_and_kept_for_predict(model: LetterModel, run: Run) -> None:
    labels = ["--label", "A=aaa", "--label", "B=bbb", "--label", "H=hhh"]
    code, out, err = run("zero-shot", "m", *labels, "--examples", "examples.jsonl", "--save", "z")
    assert (code, out) == (0, "") and "examples, scale from 5 folds (18 texts, 3 labels)" in err
    assert "wrote z: 3 labels, scale " in err and "(calibrated)" in err
    made = Classifier.load("z").manifest
    assert (made.kind, made.task, made.calibrated, made.examples) == ("zero-shot", "clustering", True, 18)
    Path("in.txt").write_text("aaab\nhhh\n")
    again = run("predict", "z", "m", "in.txt")[1]
    assert again == run("zero-shot", "m", "in.txt", *labels, "--examples", "examples.jsonl")[1]
    assert again != run("zero-shot", "m", "in.txt", *labels)[1]
    found = json.loads(run("zero-shot", "m", "in.txt", *labels, "--out", "l.jsonl", "--json")[1])
    assert found["texts"] == 2 and found["classifier"]["calibrated"] is False


def test_the_scale_says_how_sure_it_is_and_not_of_what(model: LetterModel, run: Run) -> None:
    Path("in.txt").write_text("aaab\nhhh\nab\n")
    weak, strong = (
        read(run("zero-shot", "m", "in.txt", "--label", "a", "--label", "h", "--scale", scale)[1]) for scale in (1, 50)
    )
    assert [row["label"] for row in weak] == [row["label"] for row in strong]
    assert np.all([w["probability"] < s["probability"] for w, s in zip(weak, strong, strict=True)])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--label", "a"], 1, "two labels or more, got 1: a"),
        (["--label", "a", "--label", "a=x"], 1, "the label 'a' is given twice"),
        ([], 2, "either by --label"),
        (["--label", "a", "--label", "b", "--labels", "l.jsonl"], 2, "either by --label"),
        (["--label", "a", "--label", "b", "--scale", "0"], 2, "--scale is above 0"),
        (["--label", "a", "--label", "b", "--task", "auto"], 2, "name a task or a blend"),
        (["--label", "a", "--label", "b", "--task", "sorting"], 1, "unknown task 'sorting'"),
        (["--labels", "l.jsonl"], 1, "l.jsonl:2: expected"),
        (["--label", "A", "--label", "B", "--examples", "examples.jsonl"], 1, "line 3: unknown label 'H'"),
        (["--label", "a", "--label", "b", "--dim", "9"], 1, "dim must be from 1 to 8, got 9"),
    ],
)
def test_zero_shot_says_what_does_not_fit(
    arguments: list[str], code: int, message: str, model: LetterModel, run: Run
) -> None:
    Path("in.txt").write_text("a\n")
    write("l.jsonl", ["a", {"name": "b"}])
    before = names()
    ended, out, err = run("zero-shot", "m", "in.txt", "--out", "o.jsonl", *arguments)
    assert (ended, out) == (code, "") and message in " ".join(err.replace("│", " ").split())
    assert names() == before


# ------------------------------------------------------------------------------------------------- of all


@pytest.mark.parametrize("command", ["train", "predict", "test", "zero-shot"])
def test_every_command_has_help_with_an_example_that_names_it(command: str, run: Run) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0 and f"Example: limbeck classify {command}" in " ".join(out.split())


def test_predicting_needs_no_scikit_learn() -> None:
    code = (
        "import sys, limbeck.classify.predict, limbeck.classify.saved; print({'sklearn', 'scipy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_a_missing_scikit_learn_names_the_extra_that_brings_it(
    model: LetterModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sklearn", "scipy")] or ["sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run("train", "m", "examples.jsonl", "--out", "c")
    assert code == 1 and "pip install 'limbeck[classify]'" in err and names() == ["examples.jsonl"]
