"""The comparison page: what it says is what was measured, whoever reads it and however."""

from __future__ import annotations

import re
from statistics import fmean, stdev

import pytest
from fake_results import HOSTILE, SEARCHES, TASKS, fake_evaluation, fake_model
from html_page import Page, cells_of

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.comparison import score_table, write_comparison
from limbeck.evaluation.page import markdown_text
from limbeck.evaluation.results import Evaluation, parse_evaluation

TEACHER = "all-MiniLM-L6-v2"


def pages(evaluation: Evaluation, out, **options) -> tuple[Page, str]:
    write_comparison(evaluation, out, **options)
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html and not re.search(r"url\(|@import|https?:", html)
    return Page(html), (out / "report.md").read_text(encoding="utf-8")


def evaluation_of(*models) -> Evaluation:
    return parse_evaluation({"models": list(models)})


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Page, str]:
    return pages(fake_evaluation(), tmp_path_factory.mktemp("full"), reference=TEACHER)


def test_the_page_is_well_formed_loads_nothing_runs_nothing_and_serves_the_keyboard(full):
    full[0].check()


def test_every_score_that_was_measured_is_on_the_page(full):
    shown = set(full[0].texts)
    for model in fake_evaluation().models:
        for task in model.tasks:
            assert f"{task.score:.3f}" in shown, (model.model, task.task)
            assert all(f"{p.score:.3f}" in shown for p in task.curve if not model.seed)


def test_seeds_are_one_column_with_their_mean_and_the_half_width_of_its_interval():
    evaluation = fake_evaluation()
    seeds = [next(t.score for t in m.tasks if t.task == "sick-r") for m in evaluation.models if m.group]
    half = 4.302653 * stdev(seeds) / 3**0.5  # Student's t of 2 degrees of freedom, 97.5%
    table = score_table(evaluation)
    assert table.head == ["task", "type", "metric", TEACHER, "demo, 3 seeds", HOSTILE]
    row = next(row for row in table.rows if row[0] == "sick-r")
    assert row[1:3] == ["STS", "cosine_spearman"]
    assert row[4] == f"{fmean(seeds):.3f} ± {half:.3f}"


def test_means_are_those_of_mteb_and_need_every_task():
    table = score_table(fake_evaluation())
    teacher = {t.task: t.score for t in fake_evaluation().models[0].tasks}
    by_type: dict[str, list[float]] = {}
    for task, (type_, _, _) in TASKS.items():
        by_type.setdefault(type_, []).append(teacher[task])
    rows = {row[0]: row for row in table.rows}
    assert rows["Mean (Task)"][3] == f"{fmean(teacher.values()):.3f}"
    assert rows["Mean (TaskType)"][3] == f"{fmean(fmean(scores) for scores in by_type.values()):.3f}"
    assert rows["Retrieval (3)"][3] == f"{fmean(by_type['Retrieval']):.3f}"
    assert rows["tatoeba"][5] == rows["Mean (Task)"][5] == rows["BitextMining (1)"][5] == "–"
    assert rows["STS (2)"][5] != "–"


def test_a_task_that_a_model_was_not_scored_on_is_named(full):
    sentence = f"{HOSTILE} was not scored on 2 tasks: banking, tatoeba."
    assert sentence in full[0].text
    assert markdown_text(sentence) in full[1]


def test_the_highest_mean_is_over_the_tasks_that_all_models_were_scored_on(tmp_path):
    few = fake_model("few", 0.7, without=tuple(t for t in TASKS if t not in ("sick-r", "stsb-en")))
    _, markdown = pages(evaluation_of(fake_model("many", 0.9), few), tmp_path)
    many = [t["score"] for t in fake_model("many", 0.9)["tasks"] if t["type"] == "STS"]
    assert markdown.startswith(f"# many has the highest mean, {fmean(many):.3f} on 2 of 9 tasks\n")


def test_retention_is_the_quotient_of_means_over_shared_tasks(tmp_path):
    def model(name: str, **scores: float) -> dict:
        tasks = [{"task": t, "type": "STS", "metric": "cosine_spearman", "score": s} for t, s in scores.items()]
        return {"model": name, "identity": name, "kind": "bundle", "dim": 8, "tasks": tasks}

    a, b = model("a", x=0.8, y=0.4, zero=0.0), model("b", x=0.6, zero=0.3)
    page, markdown = pages(evaluation_of(a, b), tmp_path, reference="a")
    assert "b keeps 112.5% of a on 2 of 3 tasks" in " ".join(page.text.split())
    kept = [row for row in markdown.splitlines() if row.startswith(("| x |", "| y |", "| zero |"))][3:]
    assert kept == ["| x | 0.800 | 75.0% |", "| y | 0.400 | – |", "| zero | 0.000 | – |"]


def test_a_name_that_is_html_or_markdown_is_shown_as_it_is(full):
    page, markdown = full
    assert HOSTILE in page.texts
    assert "an <i>evaluation</i> text" in page.text
    assert not re.search(r"(?<!\\)<", markdown)


def test_tables_of_the_markdown_have_as_many_cells_as_headers(full):
    tables = cells_of(full[1])
    assert len(tables) > 6 and all(len(set(cells)) == 1 for cells in tables)


def test_each_curve_chart_has_a_description_and_stands_beside_those_of_other_models(full):
    charts = [a for tag, a in full[0].tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == 2 * (3 + 2)  # two tasks: a small one of each model, and one against bytes in two widths
    assert all(a.get("aria-labelledby") for a in charts)


def test_a_leak_that_all_trained_models_share_is_counted_once(full):
    assert f"{3 * len(SEARCHES)} of 16,449 evaluation texts were seen in training (6 equal, 3 near)" in full[0].text
    assert "scifact, demo" not in full[0].text.partition("equal to a training text")[2].partition("Warnings")[0]


def test_a_warning_that_several_models_meet_is_told_once(full):
    assert full[0].text.count("3 qrels name documents that are not in the corpus") == 1


def test_commands_versions_machine_and_identities_are_told(full):
    for told in ("--tasks bench --curves", "2.26.24", "Xeon", "sentence-transformers: all-MiniLM-L6-v2 None dim=384"):
        assert told in full[0].text and (told in full[1] or markdown_text(told) in full[1])
    assert "gpu" not in full[0].texts  # a machine without one does not say so


def test_parts_that_were_not_measured_are_left_out(tmp_path):
    model = fake_model("alone", 0.9, leak=None)
    model["tasks"] = [t for t in model["tasks"] if t["task"] == "sick-r"]
    page, markdown = pages(evaluation_of(model), tmp_path)
    page.check()
    sections = [a["id"] for tag, a in page.tags if tag == "section"]
    assert sections == ["scores", "speed", "made"]
    assert re.findall(r"^## (.*)$", markdown, re.M) == ["Scores", "Speed and size", "How it was measured"]
    assert not [a for tag, a in page.tags if tag in ("details", "pre")]


def test_a_model_that_was_scored_on_nothing_has_dashes(tmp_path):
    page, markdown = pages(evaluation_of(fake_model("a", 0.9), fake_model("none", 0, without=tuple(TASKS))), tmp_path)
    page.check()
    assert (
        "none was not scored on 9 tasks" in page.text
        and markdown.startswith("# What was measured\n")
        and "| newsgroups | Clustering | v\\_measure |" in markdown
    )


@pytest.mark.parametrize(
    ("names", "reference", "headline"),
    [
        (["a"], None, "0.500 on sick-r"),
        (["a", "b"], None, "b has the highest mean, 0.600 on sick-r"),
        (["a", "b"], "b", "a keeps 83.3% of b"),
        (["a"], "a", "0.500 on sick-r"),
    ],
)
def test_the_headline_says_what_the_numbers_say(names, reference, headline, tmp_path):
    task = {"task": "sick-r", "type": "STS", "metric": "cosine_spearman"}
    models = [
        {"model": n, "identity": n, "kind": "bundle", "dim": 8, "tasks": [task | {"score": 0.5 + 0.1 * i}]}
        for i, n in enumerate(names)
    ]
    _, markdown = pages(evaluation_of(*models), tmp_path, reference=reference)
    assert markdown.splitlines()[0] == f"# {headline}"


def test_the_same_results_give_the_same_bytes(full, tmp_path):
    assert pages(fake_evaluation(), tmp_path, reference=TEACHER)[1] == full[1]


def test_a_reference_that_is_not_there_is_an_error_that_lists_who_is(tmp_path):
    with pytest.raises(ConfigError, match=f"'teacher' names no model .* choose one of {TEACHER}, demo, 3 seeds"):
        write_comparison(fake_evaluation(), tmp_path, reference="teacher")
    assert not list(tmp_path.iterdir())


def test_scores_of_one_task_by_two_metrics_are_refused(tmp_path):
    one, other = fake_model("one", 0.9), fake_model("other", 0.8)
    other["tasks"][4]["metric"] = "pearson"
    with pytest.raises(DataError, match="'sick-r' is STS by pearson for other, STS by cosine_spearman"):
        write_comparison(evaluation_of(one, other), tmp_path)
