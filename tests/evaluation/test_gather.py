"""Results brought together: nothing is lost, nothing counted twice, and a contradiction is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_results import fake_evaluation, fake_model
from html_page import Page

from limbeck.cli import main
from limbeck.errors import DataError
from limbeck.evaluation.gather import bring_together, evaluation_of_run, read_results
from limbeck.evaluation.results import Evaluation, parse_evaluation, read_evaluation


def saved(folder: Path, *models: dict[str, Any], **more: Any) -> Path:
    parse_evaluation({"models": list(models)} | more).save(folder / "results.json")
    return folder


RunFolder = Callable[..., Path]


@pytest.fixture(name="run_folder")
def _run_folder(scores: dict[str, Any]) -> RunFolder:
    def make(folder: Path, fingerprint: str | None = "abc", queries: int = 100, **changes: Any) -> Path:
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps(scores | changes), encoding="utf-8")
        if fingerprint:
            (folder / "data").mkdir()
            (folder / "data" / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
            (folder / "recipe.yaml").write_text(f"evaluate: {{queries: {queries}, batch_tokens: 5}}", encoding="utf-8")
        return folder

    return make


def scores_of(evaluation: Evaluation) -> dict[str, list[float]]:
    return {m.model: [t.score for t in m.tasks] for m in evaluation.models}


def test_a_file_and_its_folder_are_the_same_results(tmp_path):
    saved(tmp_path, fake_model("a", 0.9))
    assert (
        read_results(tmp_path) == read_results(tmp_path / "results.json") == read_evaluation(tmp_path / "results.json")
    )


def test_a_run_gives_student_base_teacher_and_static_model_on_the_held_out_tasks(run_folder, tmp_path):
    evaluation = evaluation_of_run(run_folder(tmp_path / "run"))
    assert scores_of(evaluation) == {
        "run, student": [0.787, 0.803, 0.519, 0.738],
        "run, base": [0.752, 0.701, 0.488, 0.671],
        "all-MiniLM-L6-v2": [0.845, 0.742, 0.531, 0.702],
        "run, static": [0.693, 0.622, 0.451, 0.655],
    }
    student, base, teacher, static = evaluation.models
    assert (static.kind, static.dim, static.parameters, static.texts_per_second) == ("static", 256, 7813632, 21512)
    assert base.texts_per_second is None and base.parameters == student.parameters
    assert [t.type for t in student.tasks] == ["Retrieval", "STS", "Clustering", "Classification"]
    assert [t.metric for t in student.tasks] == ["ndcg_at_10", "spearman", "v_measure", "accuracy"]
    assert [t.adapter for t in student.tasks] == ["retrieval", "text-matching", "clustering", "classification"]
    assert student.tasks[0].counts == {"queries": 1000, "documents": 2000}
    assert {(p.dim, p.precision, p.score) for p in teacher.tasks[0].curve} >= {(32, "float32", 0.541)}
    assert len(student.tasks[0].curve) == 10 and not base.tasks[0].curve
    assert (student.max_tokens, teacher.max_tokens, teacher.parameters) == (512, 256, 22713216)
    assert evaluation.commands == ["limbeck run demo --set out=runs/demo"]


def test_a_run_of_the_base_alone_has_its_held_out_retrieval(run_folder, tmp_path):
    folder = run_folder(tmp_path / "run", adapters={}, adapter_metrics={})
    assert scores_of(evaluation_of_run(folder)) == {
        "run, student": [0.787],
        "all-MiniLM-L6-v2": [0.845],
        "run, static": [0.693],
    }


def test_runs_share_a_task_where_they_were_scored_on_the_same_texts_only(run_folder, tmp_path):
    one, same = (
        run_folder(tmp_path / "one"),
        run_folder(tmp_path / "same", ndcg_at_10={"student": 0.8, "teacher": 0.845}),
    )
    fewer, other = run_folder(tmp_path / "fewer", queries=9), run_folder(tmp_path / "other", "def")
    bare = run_folder(tmp_path / "bare", None)
    tasks = {f.name: evaluation_of_run(f).models[0].tasks[0].task for f in (one, same, fewer, other, bare)}
    assert tasks["one"] == tasks["same"] and len(set(tasks.values())) == 4
    teachers = [m for m in bring_together([one, same]).models if m.model == "all-MiniLM-L6-v2"]
    assert len(teachers) == 1


def test_a_model_that_two_files_have_keeps_the_tasks_of_both(tmp_path):
    whole = fake_model("a", 0.9)
    first, second = (whole | {"tasks": part} for part in (whole["tasks"][:6], whole["tasks"][4:]))
    together = bring_together([saved(tmp_path / "1", first), saved(tmp_path / "2", second, warnings=["w"])])
    assert [t.task for t in together.models[0].tasks] == [t["task"] for t in whole["tasks"]]
    assert together.warnings == ["w"]


def test_of_a_task_that_two_files_have_the_one_with_a_curve_is_kept(tmp_path):
    whole = fake_model("a", 0.9)
    plain = whole | {"tasks": [task | {"curve": []} for task in whole["tasks"]]}
    together = bring_together([saved(tmp_path / "1", plain), saved(tmp_path / "2", whole)])
    assert together == bring_together([saved(tmp_path / "3", whole)])


def test_a_score_that_two_files_disagree_about_is_an_error_that_names_both(tmp_path):
    one, other = fake_model("a", 0.9), fake_model("a", 0.9)
    other["tasks"][1] |= {"score": other["tasks"][1]["score"] + 0.01}
    paths = [saved(tmp_path / "first", one), saved(tmp_path / "second", other)]
    with pytest.raises(DataError, match=r"a \(a None dim=384\) has 0\.\d+ on cranfield in .*first and .* in .*second"):
        bring_together(paths)
    other["tasks"][1] |= {"score": one["tasks"][1]["score"] + 1e-9}  # rounding is no disagreement
    assert len(bring_together([paths[0], saved(tmp_path / "second", other)]).models) == 1


def test_commands_versions_and_machines_of_all_are_told(tmp_path):
    a = saved(
        tmp_path / "a", fake_model("a", 1), versions={"torch": "1", "mteb": "2"}, commands=["x"], created="2026-01-01"
    )
    b = saved(
        tmp_path / "b",
        fake_model("b", 1),
        versions={"torch": "3", "mteb": "2"},
        commands=["x", "y"],
        created="2026-01-02",
    )
    together = bring_together([a, b])
    assert together.versions == {"torch": "1, 3", "mteb": "2"}
    assert (together.commands, together.created) == (["x", "y"], "2026-01-02")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p, _: p / "nowhere", "nowhere does not exist: name a results.json"),
        (lambda p, _: p, "holds neither results.json nor scores.json"),
        (lambda p, run: run(p / "r", vector_dim=None), "does not say how many dims"),
        (lambda p, run: run(p / "r", ndcg_at_10={}, adapters={}), "holds no held-out score"),
    ],
)
def test_what_holds_no_results_is_an_error_that_says_what_would(make, reason, run_folder, tmp_path):
    with pytest.raises(DataError, match=reason):
        read_results(make(tmp_path, run_folder))


# -------------------------------------------------------------------------------------- limbeck compare


def test_compare_writes_a_page_a_table_and_results_and_prints_the_table(run_folder, tmp_path, capsys):
    one, run, out = saved(tmp_path / "one", fake_model("a", 0.9)), run_folder(tmp_path / "run"), tmp_path / "out"
    main_quietly("compare", str(one), str(run), "--out", str(out), "--reference", "all-MiniLM-L6-v2")
    printed = capsys.readouterr().out
    assert "cosine_spearman" in printed and "run, student" in printed and str(out / "index.html") in printed
    Page((out / "index.html").read_text(encoding="utf-8")).check()
    assert "## Kept of all-MiniLM-L6-v2" in (out / "report.md").read_text(encoding="utf-8")
    assert read_evaluation(out / "results.json") == bring_together([one, run])


def test_compare_prints_json_that_is_the_schema(tmp_path, capsys):
    fake_evaluation().save(tmp_path / "results.json")
    main_quietly("compare", str(tmp_path), "--out", str(tmp_path / "out"), "--json")
    assert parse_evaluation(json.loads(capsys.readouterr().out)) == fake_evaluation()


def test_compare_of_a_contradiction_writes_nothing_and_exits_with_1(tmp_path, capsys):
    a, b = saved(tmp_path / "a", fake_model("m", 0.9)), saved(tmp_path / "b", fake_model("m", 0.5) | {"dim": 9})
    with pytest.raises(SystemExit) as exited:
        main(["compare", str(a), str(b), "--out", str(tmp_path / "out")])
    assert exited.value.code == 1 and "one of them is out of date" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def main_quietly(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main(list(arguments))
    assert exited.value.code == 0
