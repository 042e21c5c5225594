import json
import re

import pytest
from html_page import Page, cells_of

from limbeck.errors import DataError
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.page import markdown_text
from limbeck.evaluation.report import write_report
from limbeck.evaluation.scores import Scores, parse_scores, read_metrics, read_scores

HOSTILE = '<script>alert("x")</script> & <b>bold</b> | `code`'  # in a document of the fixture


@pytest.fixture
def full(scores, metrics, adapter_logs, tmp_path) -> tuple[str, str]:
    out = tmp_path / "full"
    write_report(scores, metrics, out, adapter_metrics_log=adapter_logs)
    return (out / "index.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


def test_the_headline_says_what_is_kept_and_at_what_cost(full):
    html, markdown = full
    heading = re.search(r"<h1>(.*?)</h1>", html, re.S)
    assert heading and re.sub("<.*?>", "", heading[1]) == "Keeps 93.1% of the teacher at 45% of its compute"
    assert markdown.startswith("# Keeps 93.1% of the teacher at 45% of its compute\n")


def test_the_page_shows_every_measured_part(full):
    text = Page(full[0]).text
    for shown in ("0.845", "0.787", "0.214", "9 min 41 s", "2.9 GB", "48 bytes", "10.6M", "58,801", "1,013", "0.446"):
        assert shown in text, shown
    for name in ("limbeck run demo", "Xeon", "2.13.0", "python-docs", "found at rank 7"):
        assert name in text, name


def test_the_page_is_well_formed_loads_nothing_runs_nothing_and_serves_the_keyboard(full):
    Page(full[0]).check()
    assert "url(" not in full[0] and "@import" not in full[0] and "http:" not in full[0] and "https:" not in full[0]


def test_html_in_a_docstring_is_shown_as_text(full):
    html, markdown = full
    assert HOSTILE in "".join(Page(html).texts)
    assert "<script" not in html
    assert not re.search(r"(?<!\\)<", markdown)  # every bracket is escaped


def test_each_chart_has_a_title_a_description_and_a_table(full):
    page = Page(full[0])
    charts = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == 4 + 4  # two charts, wide and narrow, and a small one of each adapter
    assert sum(tag == "details" for tag, _ in page.tags) == 3


def test_tables_of_the_markdown_have_as_many_cells_in_every_row(full):
    tables = cells_of(full[1])
    assert len(tables) == 10 and all(len(set(cells)) == 1 for cells in tables)


def test_the_same_run_gives_the_same_bytes(full, scores, metrics, adapter_logs, tmp_path):
    write_report(parse_scores(scores), metrics, tmp_path, adapter_metrics_log=adapter_logs)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == full[0]


def test_the_static_model_stands_beside_teacher_and_student_in_every_table(full):
    html, markdown = full
    assert "| Static token vectors | 0.693 | – | – | 82.0% |" in markdown
    assert "| texts a second | 418 | 1,013 | 21,512 | 2.42× |" in markdown
    assert "| parameters | 22.7M | 10.6M | 7.81M | 0.47× |" in markdown
    assert "| bytes a vector, float32 | 1,536 | 1,536 | 1,024 | 1.00× |" in markdown
    assert "one vector for each token" in Page(html).text and 'class="bar c-static"' in html


def test_a_report_without_a_static_model_has_no_column_for_it(scores, tmp_path):
    for part in ("ndcg_at_10", "texts_per_second", "vector_dim", "parameters"):
        del scores[part]["static"]
    for row in scores["adapters"].values():
        del row["static"]
    write_report(scores, [], tmp_path)
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")]
    assert "static" not in pages[1].lower() and "static model" not in Page(pages[0]).text
    assert "| texts a second | 418 | 1,013 | 2.42× |" in pages[1]


def test_queries_in_the_teachers_index_are_held_against_the_teachers_own(full):
    html, markdown = full
    rows = [
        "| queries by | documents by | nDCG@10 | of teacher |",
        "| --- | --- | ---: | ---: |",
        "| teacher | teacher | 0.845 | 100.0% |",
        "| student, base | student, base | 0.752 | 89.0% |",
        "| student, base | teacher | 0.776 | 91.8% |",
        "| student | student | 0.787 | 93.1% |",
        "| student | teacher | 0.803 | 95.0% |",
    ]
    assert "\n".join(rows) in markdown
    assert "In the teacher’s index" in Page(html).text


def test_a_student_without_adapters_is_its_base(scores, tmp_path):
    scores["indexes"] = [row for row in scores["indexes"] if row["queries"] != "retrieval"]
    write_report(scores, [], tmp_path)
    assert "| student | teacher | 0.776 | 91.8% |" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", [key for key in Scores.model_fields if key != "ndcg_at_10"])
def test_a_part_that_was_not_measured_is_left_out(part, scores, metrics, tmp_path):
    scores.pop(part, None)
    write_report(scores, metrics, tmp_path)
    Page((tmp_path / "index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("ndcg", "headline"),
    [
        ({"student": 0.5}, "nDCG@10 of 0.500 on held-out text"),
        ({"teacher": 0.8}, "What was measured"),
        ({"teacher": 0.5, "student": 0.6}, "Keeps 120.0% of the teacher"),
        ({"teacher": 0.0, "student": 0.0, "untrained": 0.0}, "nDCG@10 of 0.000 on held-out text"),
    ],
)
def test_a_report_can_be_made_from_ndcg_alone(ndcg, headline, tmp_path):
    write_report({"ndcg_at_10": ndcg}, [], tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert headline in re.sub("<.*?>", "", html)
    Page(html)
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith(f"# {headline}\n")


@pytest.mark.parametrize(
    "metrics",
    [
        [{"step": 1, "loss": 0.5}],
        [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 0.4}],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": -0.1}],
        [{"event": "saved"}],
    ],
)
def test_a_short_or_broken_training_log_does_not_stop_the_report(metrics, tmp_path):
    write_report({"ndcg_at_10": {"student": 0.5}}, metrics, tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    Page(html)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S).lower().split()


def test_zeros_of_a_rare_loss_take_no_column_but_duplicates_always_do(tmp_path):
    scores = {
        "ndcg_at_10": {"student": 0.5},
        "data": {"a": {"read": 3, "near_duplicates": 0, "overlap": 0, "train": 3}},
    }
    write_report(scores, [], tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| source | read | near duplicates | training |" in markdown


def test_scores_survive_json_and_retention_is_filled_in(scores, tmp_path):
    scores = parse_scores(scores)
    scores.save(tmp_path / "scores.json")
    raw = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert raw["ndcg_at_10"] == {"teacher": 0.845, "student": 0.787, "untrained": 0.214, "static": 0.693}
    assert raw["seconds"] == 581.3 and raw["peak_rss_mb"] == 2931.4
    assert raw["retention"] == pytest.approx(0.787 / 0.845)
    assert read_scores(tmp_path / "scores.json") == scores


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({}, "ndcg_at_10: Field required"),
        ({"ndcg_at_10": {"student": float("nan")}}, "ndcg_at_10.student"),
        ({"ndcg_at_10": {}, "secconds": 3}, "secconds: Extra inputs"),
        ({"ndcg_at_10": {}, "adapters": {"search": {"base": 0.5}}}, "adapters: .*unknown task 'search': .* retrieval,"),
        ({"ndcg_at_10": {}, "adapters": {"retrieval": {"best": 0.5}}}, "adapters: .*unknown adapter 'best': .* auto,"),
        ({"ndcg_at_10": {}, "adapters": {"clustering": {"base": 51.2}}}, "adapters.clustering.base: .*less than"),
        ({"ndcg_at_10": {}, "adapter_metrics": {"search": "nDCG@10"}}, "adapter_metrics: .*unknown task"),
        ({"ndcg_at_10": {}, "averaging": {"retrieval": {"final": 0.1, "averaged": 0.2, "kept": "b"}}}, "kept"),
        (
            {
                "ndcg_at_10": {},
                "spread": [{"regularised": True, "precision": "binary", "dim": 8, "ndcg_at_10": n} for n in (0.1, 0.2)],
            },
            r"scored twice .*\(8, 'binary', True\)",
        ),
    ],
)
def test_scores_that_do_not_fit_the_schema_are_named(scores, reason, tmp_path):
    with pytest.raises(DataError, match=reason):
        write_report(scores, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_no_json_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "scores.json").write_text('{"ndcg')
    with pytest.raises(DataError, match=r"scores\.json is not valid JSON"):
        read_scores(tmp_path / "scores.json")


def test_a_torn_last_line_of_a_training_log_is_left_out_and_any_other_is_an_error(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(log) == [{"step": 1, "loss": 0.5}]
    log.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.5}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:1"):
        read_metrics(log)


def test_scores_can_be_built_without_a_dict():
    assert Scores.model_validate({"ndcg_at_10": {"teacher": 0.8, "student": 0.6}}).retention == pytest.approx(0.75)


def test_markdown_text_stays_on_one_line_and_means_nothing():
    assert markdown_text("a|b\n  *c* <d> _e_ `f`") == r"a\|b \*c\* \<d\> \_e\_ \`f\`"


def test_numbers_are_written_as_a_reader_wants_them():
    assert [fmt.duration(s) for s in (0.44, 9.94, 9.96, 59.4, 59.6, 581.3, 3599.6, 11100)] == [
        "0.4 s",
        "9.9 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "9 min 41 s",
        "1 h 00 min",
        "3 h 05 min",
    ]
    assert [fmt.short_count(v) for v in (384, 9999, 72104, 10617088, 4.02e9)] == [
        "384",
        "9,999",
        "72.1k",
        "10.6M",
        "4.02B",
    ]
    assert [fmt.memory(v) for v in (512, 2931.4)] == ["512 MB", "2.9 GB"]
    assert [fmt.change(v) for v in (0.0214, -0.004, 0.0002, -0.0002)] == ["+0.021", "−0.004", "±0.000", "±0.000"]
    assert [fmt.percent(v) for v in (0.931, -0.004)] == ["93.1%", "−0.4%"]
    assert [fmt.whole_percent(v) for v in (0.446, 0.0, 0.0042)] == ["45%", "0%", "0.4%"]
    assert fmt.score(None) == fmt.percent(None) == fmt.count(None) == "–"


# ----------------------------------------------------------------------- what a later stage may add


MORE = {
    "map": {
        "points": [
            {"x": float(i), "y": float(i % 3), "label": f"topic {i % 11}", "text": f"<i>text</i> {i}"}
            for i in range(44)
        ],
        "texts": 900,
    },
    "leaks": {"held-out retrieval": {"exact": 1, "near": 2, "texts": 2000, "threshold": 0.8, "examples": [["a", "b"]]}},
    "training": {
        "python-docs": {"kind": "pair", "examples": 58801, "weight": 0.5, "tokens": 9200000},
        "debian-packages": {
            "kind": "labelled_text",
            "examples": 28009,
            "languages": {tag: 100 - i for i, tag in enumerate("en de fr es it pt ja ru".split())},
        },
    },
}


@pytest.fixture
def more(tmp_path) -> tuple[Page, str]:
    write_report({"ndcg_at_10": {"student": 0.5}} | MORE, [], tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    return Page(html), (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_map_has_a_point_with_a_title_for_every_text_and_a_legend(more):
    page, _ = more
    page.check()
    titles = {f"topic {i % 11}: <i>text</i> {i}" for i in range(44)}
    assert titles <= set(page.texts)
    assert "44 of 900 held-out texts" in page.text and "3 other labels" in page.text
    assert [a for tag, a in page.tags if tag == "section"][1]["id"] == "map"
    assert sum(a.get("class") == "dot-swatch" for _, a in page.tags) == 9


def test_leaks_and_the_training_texts_are_told_in_both_files(more):
    page, markdown = more
    for text in (page.text, markdown):
        assert "3 of 2,000 evaluation texts were seen in training" in text
        assert "en, de, fr, es, it, pt and 2 more" in text
    assert "| python-docs | pair | 0.5 | – | 58,801 | 9.2M |" in markdown
    assert all(len(set(cells)) == 1 for cells in cells_of(markdown))


def test_int8_and_rescored_vectors_are_lines_of_the_chart_and_columns_of_the_table(tmp_path):
    def rows(precision: str, score: float, rescored: str | None = None) -> list[dict]:
        more = {"precision": precision, "rescored_by": rescored}
        return [{"dim": d, "ndcg_at_10": score + d / 1000, "bytes": d} | more for d in (8, 16)]

    dims = rows("float32", 0.5) + rows("int8", 0.49) + rows("binary", 0.4) + rows("binary", 0.48, "int8")
    write_report({"ndcg_at_10": {"student": 0.516}, "dims": dims}, [], tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    legend = {"Student, float32", "Student, int8", "Student, 1 bit", "Student, 1 bit, rescored by int8"}
    assert legend <= set(page.texts)
    assert {"student", "student, int8", "student, 1 bit", "student, 1 bit, rescored by int8"} <= set(page.texts)
    assert {"0.508", "0.516", "0.498", "0.408", "0.488"} <= set(page.texts)


@pytest.mark.parametrize(("widths", "charts"), [((16,), 0), ((8, 16), 2)])
def test_the_regulariser_has_a_curve_over_dims_where_there_are_two_or_more(widths, charts, tmp_path):
    spread = [
        {
            "regularised": with_it,
            "precision": precision,
            "dim": dim,
            "ndcg_at_10": 0.5 + dim / 100 - 0.1 * (not with_it),
        }
        for with_it in (True, False)
        for precision in ("float32", "binary")
        for dim in widths
    ]
    write_report({"ndcg_at_10": {"student": 0.5}, "spread": spread}, [], tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    page.check()
    assert sum(a.get("role") == "img" for _, a in page.tags) == charts
    assert bool({"with, 1 bit", "without, float32"} & set(page.texts)) == bool(charts)
