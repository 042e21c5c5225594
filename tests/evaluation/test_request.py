"""`limbeck evaluate`, from its command line to files: with a small bundle in its run, on small sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from evaluation_sets import WordCounts, write_pairs, write_rows, write_search

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "model")]  # for the modules there that are no tests

from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import FRESH, byte_level, save_model, student  # noqa: E402

from limbeck import cli  # noqa: E402
from limbeck.evaluation.request import default_out  # noqa: E402
from limbeck.evaluation.results import read_evaluation  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the folder of a run, with adapters for two of the four tasks."""
    teacher = save_model(tmp_path_factory.mktemp("qwen3"), "Qwen3", byte_level(), num_key_value_heads=1, head_dim=16)
    run = tmp_path_factory.mktemp("run")
    (run / "recipe.yaml").write_text("extends: demo\nname: one\nseed: 5\n")
    section = student(init="fresh", fresh=FRESH, dims=[8, 24], max_tokens=32)
    return adapted_bundle(run / "model", section, teacher, tasks=["retrieval", "text-matching"])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        cli.main(["evaluate", *map(str, arguments)])
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_bundle_is_scored_into_its_run(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_search(tmp_path)
    write_pairs(tmp_path)
    options = ("--tasks", tmp_path, "--dim", 24, "--dim", 8, "--precision", "float32", "--precision", "binary")
    code, out, _ = run(capsys, bundle, *options, "--curves")
    assert code == 0
    folder = bundle.parent / "evaluation"
    evaluation = read_evaluation(folder / "results.json")
    assert [m.model for m in evaluation.models] == ["tiny", "tiny · binary", "tiny · 8", "tiny · 8 · binary"]
    assert [(t.task, t.adapter) for t in evaluation.models[0].tasks] == [
        ("pets", "retrieval"),
        ("alike", "text-matching"),
    ]
    for part in ("pets", "alike", "ndcg_at_10", "cosine_spearman", "Mean (TaskType)", "tiny · 8 · binary"):
        assert part in out
    assert f"{evaluation.models[0].tasks[0].score:.3f}" in out
    assert (folder / "index.html").is_file() and (folder / "report.md").is_file()
    assert evaluation.commands[0].startswith(f"limbeck evaluate {bundle} --tasks ")


def test_json_is_the_evaluation_and_nothing_else(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, out = write_search(tmp_path), tmp_path / "out"
    code, printed, _ = run(capsys, bundle, "--tasks", tasks, "--out", out, "--adapter", "base", "--json")
    assert code == 0
    body = json.loads(printed)
    assert body == json.loads((out / "results.json").read_text())
    assert body["models"][0]["model"] == "tiny · base" and body["models"][0]["tasks"][0]["adapter"] is None


def test_warnings_and_training_texts_are_printed_below_the_scores(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"text": "cats purr softly"}])
    tasks = write_search(tmp_path, grades={"q0": {"d0": 1, "d99": 1}}, queries={"q0": "cats purr"})
    code, out, _ = run(capsys, bundle, "--tasks", tasks, "--out", tmp_path / "out", "--train", train)
    assert code == 0
    assert "training texts in pets: 1 equal and 0 near, of 16 texts" in out
    assert "warning: pets: 1 lines of qrels.tsv name a document" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dim", "65"], "tiny has 24 dims, and 65 were asked for"),
        (["--dim", "12", "--precision", "binary"], "cannot be binary at 12 dims"),
        (["--adapter", "translation"], "unknown task 'translation'"),
        (["--strict"], "none are known: name them by --train"),
        (["--tasks", "NanoBIER"], "did you mean NanoBEIR"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, out, err = run(capsys, bundle, "--tasks", write_search(tmp_path), "--out", tmp_path / "out", *options)
    assert (code, out) == (1, "")
    assert message in err and "Traceback" not in err


def test_strict_refuses_a_task_that_holds_training_texts(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"text": "cats purr softly"}])
    tasks = write_search(tmp_path)
    code, _, err = run(capsys, bundle, "--tasks", tasks, "--out", tmp_path / "out", "--train", train, "--strict")
    assert code == 1
    assert "training texts are among the evaluation texts of 1 tasks:\n  pets: 1 exact" in err


def test_results_go_into_the_run_of_a_single_bundle_and_else_under_the_names_of_the_models() -> None:
    one, other = WordCounts("all-MiniLM-L6-v2"), WordCounts("owner/model: 2")
    assert default_out([one]) == Path("runs/evaluation/all-MiniLM-L6-v2")
    assert default_out([one, other]) == Path("runs/evaluation/all-MiniLM-L6-v2+owner-model-2")
