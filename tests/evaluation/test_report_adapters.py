"""What the report shows of stage 2, and that its sentences say what the numbers do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from limbeck.evaluation.adapters import matrix, spread_effect, term_charts, term_table
from limbeck.evaluation.report import write_report
from limbeck.evaluation.scores import Scores, parse_scores


def scores_of(**parts: Any) -> Scores:
    return parse_scores({"ndcg_at_10": {"student": 0.5}, **parts})


def said(adapters: dict[str, dict[str, float]]) -> str:
    shown = matrix(scores_of(adapters=adapters))
    assert shown
    return " ".join(shown.sentences)


def spread(with_it: tuple[float, float], without: tuple[float, float], dim: int = 64) -> list[dict[str, Any]]:
    return [
        {"regularised": regularised, "precision": precision, "dim": dim, "ndcg_at_10": value}
        for regularised, values in ((True, with_it), (False, without))
        for precision, value in zip(("float32", "binary"), values, strict=True)
    ]


# -------------------------------------------------------------------------------------------- matrix


def test_the_best_of_base_and_adapters_is_bold_and_the_adapter_of_the_task_is_marked(scores, metrics, tmp_path):
    write_report(scores, metrics, tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr role="row"><th role="rowheader".*?</tr>', html, re.S)
    assert len(rows) == 4
    best = [re.findall(r'<td[^>]*data-who="([^"]*)"><span><b>', row) for row in rows]
    own = [re.findall(r'<td[^>]*class="[^"]*\bown\b[^"]*" data-who="([^"]*)"', row) for row in rows]
    # the teacher is ahead in two rows and is no choice; on clustering another adapter is the best
    assert best == [["retrieval"], ["text-matching"], ["text-matching"], ["classification"]]
    assert own == [["retrieval"], ["text-matching"], ["clustering"], ["classification"]]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "| clustering | V-measure | 0.488 | 0.493 | **0.527** | 0.519 ◆ | 0.472 | 0.514 | 0.451 | 0.531 |\n"
        "| classification | accuracy | 0.671 | 0.668 | 0.684 | 0.679 | **0.738** ◆ | 0.731 | 0.655 | 0.702 |\n"
    ) in markdown


def test_the_matrix_is_put_in_words(scores):
    shown = matrix(parse_scores(scores))
    assert shown and shown.heading == "Four adapters"
    assert shown.sentences == [
        "The adapter made for a task serves it best in three of four tasks; "
        "on clustering the text-matching adapter is ahead, 0.527 against 0.519.",
        "Against the base without an adapter: retrieval +0.035, text-matching +0.102, clustering +0.031, "
        "classification +0.067.",
        "“auto”, which is not told the task, stays within 0.01 of the adapter made for it in three of four tasks, "
        "and loses most on text-matching: 0.035. It is above the base in all four tasks.",
    ]


def test_words_follow_the_numbers_when_adapters_do_not_help():
    rows = {
        "retrieval": {"base": 0.6, "retrieval": 0.5, "clustering": 0.4, "auto": 0.4},
        "clustering": {"base": 0.6, "retrieval": 0.5, "clustering": 0.55, "auto": 0.5},
    }
    text = said(rows)
    assert "best in none of two tasks; on retrieval the base is ahead, 0.600 against 0.500; on clustering" in text
    assert "retrieval −0.100, clustering −0.050" in text
    assert "in none of two tasks, and loses most on retrieval: 0.100. It is above the base in none of two" in text


def test_a_tie_is_not_held_against_the_adapter_and_both_are_bold():
    shown = matrix(scores_of(adapters={"retrieval": {"base": 0.5, "retrieval": 0.5}}))
    assert shown and [cell.best for cell in shown.rows[0][2]] == [True, True]
    assert shown.heading == "One adapter"
    assert shown.sentences[0] == "The adapter made for a task serves it best in the one task measured."


def test_an_auto_that_loses_nothing_is_said_to_lose_nothing():
    rows = {t: {"base": 0.5, t: 0.6, "auto": 0.6} for t in ("retrieval", "clustering")}
    assert "made for it in both tasks. It is above" in said(rows)


@pytest.mark.parametrize("missing", ["base", "retrieval", "auto", "static", "teacher"])
def test_a_column_or_a_cell_that_was_not_measured_is_left_out(missing, scores, tmp_path):
    del scores["adapters"]["clustering"]
    for row in scores["adapters"].values():
        del row[missing]
    del scores["adapters"]["classification"]["text-matching"]
    shown = matrix(parse_scores(scores))
    assert shown and missing not in shown.columns and missing not in shown.adapters
    assert [task for task, _, _ in shown.rows] == ["retrieval", "text-matching", "classification"]
    assert {len(cells) for _, _, cells in shown.rows} == {len(shown.columns)} == {7}
    assert [cell.who for cell in shown.rows[2][2] if cell.value == "–"] == ["text-matching"]
    write_report(scores, [], tmp_path)


# ---------------------------------------------------------------------------------------- regulariser


@pytest.mark.parametrize(
    ("with_it", "without", "words"),
    [
        (
            (0.80, 0.78),
            (0.79, 0.711),
            "costs 2.5% of nDCG@10 with the regulariser and 10.0% without: it takes away 75%",
        ),
        ((0.80, 0.72), (0.80, 0.76), "10.0% of nDCG@10 with the regulariser and 5.0% without: here it does not help."),
        ((0.80, 0.72), (0.50, 0.45), "costs 10.0% of nDCG@10 with the regulariser and as much without."),
        ((0.80, 0.80), (0.80, 0.76), "costs 0.0% of nDCG@10 with the regulariser and 5.0% without: with it nothing"),
        ((0.50, 0.51), (0.80, 0.76), "costs −2.0% of nDCG@10 with the regulariser and 5.0% without: with it nothing"),
    ],
)
def test_the_regulariser_is_credited_with_what_it_saves_and_no_more(with_it, without, words):
    effect = spread_effect(scores_of(spread=spread(with_it, without)))
    assert effect and words in effect.sentence
    assert f"{with_it[0] - without[0]:+.3f}".lstrip("+-") in effect.sentence
    assert [row[1:3] for row in effect.table.rows] == [[f"{v:.3f}" for v in values] for values in (with_it, without)]
    assert all(0 <= bar.share <= 1 for bar in effect.bars)


def test_the_sentence_is_about_the_widest_vectors_and_absent_when_half_is():
    both = spread((0.8, 0.7), (0.8, 0.6), dim=32) + spread((0.9, 0.88), (0.9, 0.85), dim=64)
    effect = spread_effect(scores_of(spread=both))
    assert effect and "each of the 64 dimensions costs 2.2%" in effect.sentence
    assert [row[0] for row in effect.table.rows] == [
        "with, 32 dims",
        "without, 32 dims",
        "with, 64 dims",
        "without, 64 dims",
    ]
    half = spread_effect(scores_of(spread=both[:2]))
    assert half and half.sentence == "" and len(half.table.rows) == 1
    assert spread_effect(scores_of(spread=spread((0.0, 0.0), (0.0, 0.0))))  # a share of nothing is not computed


# --------------------------------------------------------------------------------------------- losses


def test_each_adapter_has_a_chart_of_its_terms_from_one_downwards(adapter_logs):
    charts = term_charts(adapter_logs)
    assert {name: [s.label for s in chart.series] for name, chart in charts.items()} == {
        "retrieval": ["InfoNCE", "distill", "spread"],
        "text-matching": ["CoSENT", "InfoNCE", "distill"],
        "clustering": ["distill"],
        "classification": ["InfoNCE", "relational"],
    }
    for chart in charts.values():
        assert all(series.points[0][1] == 1 for series in chart.series)
        assert all(layout.y_ticks[0].label == "0" for layout in chart.layouts)


def test_a_term_that_only_some_steps_have_is_drawn_through_those(adapter_logs):
    lines = {s.label: s.points for s in term_charts(adapter_logs)["text-matching"].series}
    assert [x for x, _ in lines["InfoNCE"]] == [30, 60, 90, 120]
    assert not {x for x, _ in lines["CoSENT"]} & {30, 60, 90, 120}


def test_a_log_of_one_step_or_of_zeros_is_a_table_and_no_chart():
    logs = {
        "retrieval": [{"step": 5, "loss": 0.7, "info_nce": 0.7}],
        "clustering": [{"step": 5, "distill": 0.0}, {"step": 9, "distill": 0.1}],
        "classification": [],
    }
    assert term_charts(logs) == {}
    table = term_table(logs)
    assert table and table.rows == [
        ["retrieval, InfoNCE", "5", "0.7", "5", "0.7"],
        ["clustering, distill", "5", "0", "9", "0.1"],
    ]
    assert [s.label for s in term_charts({"x": [{"step": s, "loss": 1 / s} for s in (1, 2)]})["x"].series] == ["loss"]
    new = [{"step": s, "loss": 1.0, "my_term": 1 / s, "lr": 1.0} for s in (1, 2)]
    assert [s.label for s in term_charts({"x": new})["x"].series] == ["my term"]


# --------------------------------------------------------------------------------------------- page


def report_of(scores: dict[str, Any], out: Path, **logs: Any) -> tuple[str, str]:
    write_report(scores, [], out, **logs)
    return (out / "index.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


def test_a_run_without_adapters_has_no_section_about_them(scores, tmp_path):
    for part in ("adapters", "adapter_metrics", "spread", "averaging"):
        del scores[part]
    html, markdown = report_of(scores, tmp_path)
    for text in (html.partition("<body>")[2], markdown):
        assert "adapter" not in text.lower() and "regulariser" not in text.lower()


def test_each_part_of_stage_two_stands_alone(scores, adapter_logs, tmp_path):
    alone = {"ndcg_at_10": {"student": 0.5}}
    for part, heading in (
        ("adapters", "Four adapters"),
        ("spread", "With and without the orthogonal regulariser"),
        ("averaging", "Averaged with an earlier checkpoint"),
    ):
        html, markdown = report_of(alone | {part: scores[part]}, tmp_path / part)
        assert f">{heading}</h" in html and scores["student"] not in markdown
    html, markdown = report_of(alone, tmp_path / "logs", adapter_metrics_log=adapter_logs)
    assert html.count('<figure class="small">') == 4 and 'href="#learning"' in html
    assert "| retrieval, InfoNCE | 10 |" in markdown


def test_the_student_is_said_to_use_its_retrieval_adapter_only_where_it_has_one(scores, tmp_path):
    sentence = "The student answers with its retrieval adapter."
    assert sentence in report_of(scores, tmp_path / "with")[0]
    del scores["adapters"]["retrieval"]["retrieval"]
    assert sentence not in report_of(scores, tmp_path / "without")[0]
