"""What a reader sees of an experiment; the figures are worked out by hand."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_results import answer, arm, one_seed, results, with_curves

from limbeck.ablation.experiments import at_dims
from limbeck.ablation.page import write_experiment_page
from limbeck.ablation.results import Results

SVG = "{http://www.w3.org/2000/svg}"


def written(of: Results, out: Path) -> tuple[str, str]:
    """Page and report."""
    write_experiment_page(of, out)
    return (out / "index.html").read_text(), (out / "report.md").read_text()


def row(report: str, name: str, table: int = 0) -> list[str]:
    """Cells of the row of a Markdown table, in the nth table that has it."""
    lines = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in lines[table].strip("|").split("|")]


def test_scores_are_means_with_the_half_of_their_t_interval_and_the_best_is_bold(tmp_path: Path) -> None:
    page, report = written(results(), tmp_path)
    # t(0.975, 2) · 0.1 / √3 = 0.248; a rank has one digit, and none of them is the best
    assert row(report, "small") == ["small", "0.500 ± 0.248", "9.0 ± 0.0"]
    assert row(report, "big") == ["big", "**0.600 ± 0.248**", "5.0 ± 2.5"]
    assert row(report, "teacher") == ["teacher", "0.900", "–"]
    assert row(report, "scifact") == ["scifact", "**0.310 ± 0.000**", "0.200 ± 0.000", "–"]
    assert "<b>0.600 ± 0.248</b>" in page and "<b>0.500 ± 0.248</b>" not in page


def test_of_the_loss_at_one_bit_the_smallest_is_the_best(tmp_path: Path) -> None:
    name = "1-bit loss"
    arms = [arm("a", [0.5, 0.5], **{name: [0.1, 0.3]}), arm("b", [0.5, 0.5], **{name: [0.05, 0.05]})]
    _, report = written(results(arms=arms, seeds=[0, 1], metrics=["held-out", name]), tmp_path)
    # t(0.975, 1) · 0.1414 / √2 = 1.2706
    assert row(report, "a")[2] == "20.0% ± 127.1%"
    assert row(report, "b")[2] == "**5.0% ± 0.0%**"


def test_the_verdict_comes_first_and_every_contrast_has_its_figures(tmp_path: Path) -> None:
    page, report = written(results(), tmp_path)
    head, first = report.split("\n")[0], report.split("\n")[2]
    assert head == "# stages: reproduced"
    assert first == "- Big is better: reproduced (big against small +0.100 \\[+0.050, +0.150\\])."
    assert page.index("Big is better: reproduced") < page.index("Is big better?")
    assert row(report, "“big” against “small”") == [
        "“big” against “small”",
        "held-out",
        "\\> 0",
        "+0.100",
        "\\[+0.050, +0.150\\]",
        "\\< 0.001",
        "\\< 0.001",
        "yes",
        "3 × 200",
    ]


def test_what_is_open_says_so_and_so_does_one_seed(tmp_path: Path) -> None:
    unsure = [answer(estimate=0.01, low=-0.02, high=0.04, holds="open", p_value=0.4, p_holm=0.8)]
    _, report = written(results(answers=unsure, status="not decidable at this scale"), tmp_path / "several")
    assert "+0.010 \\[−0.020, +0.040\\] leaves open whether it is \\> 0." in report
    assert row(report, "“big” against “small”")[5:8] == ["0.400", "0.800", "open"]
    _, report = written(one_seed(), tmp_path / "one")
    assert "+0.100, from one seed, which cannot tell an effect from chance" in report
    assert row(report, "“big” against “small”")[4:] == ["–", "–", "–", "open", "1 × 200"]
    assert row(report, "big")[1] == "**0.500**" and "±" not in report


def test_a_reduction_is_a_share_and_says_what_is_needed(tmp_path: Path) -> None:
    cut = answer(metric="1-bit loss", against_metric="1-bit loss", kind="reduction", least=0.5, queries=0)
    _, report = written(results(answers=[cut.model_copy(update={"holds": "no"})]), tmp_path)
    cells = row(report, "“big” against “small”")
    assert cells[1:5] == ["cut in 1-bit loss", "\\> 50.0%", "10.0%", "\\[5.0%, 15.0%\\]"]
    assert cells[-1] == "3"
    assert "is not \\> 50.0%" in report


def test_what_was_not_measured_is_not_a_number(tmp_path: Path) -> None:
    nan = math.nan
    _, report = written(results(answers=[answer(estimate=nan, low=nan, high=nan, holds="open")]), tmp_path)
    assert "held-out: not measured, so it is open." in report and "nan" not in report


def test_all_that_it_takes_to_run_it_again_is_there(tmp_path: Path) -> None:
    page, report = written(results(), tmp_path)
    for text in (
        "--set 'student.dims=[384]'",
        "scifact: 0",
        "0, 1, 2",
        "1.25",
        "limbeck ablate stages --tasks /data/bench/scifact",
        "1 min 00 s",
        "the texts are few",
        "All arms have as many tokens.",
        "small: the recipe as it is",
    ):
        assert text in report, text
        assert text in page.replace("&#39;", "'"), text


def test_names_are_escaped(tmp_path: Path) -> None:
    named = results(arms=[arm("a <b> & c", [0.5, 0.6, 0.7]), arm("d | e", [0.4, 0.5, 0.6])])
    page, report = written(named, tmp_path)
    assert "a &lt;b&gt; &amp; c" in page and "<b> & c" not in page
    assert "a \\<b\\> \\& c" in report and "d \\| e" in report
    assert "a <b> & c" in texts(tmp_path)


def texts(out: Path) -> list[str]:
    """All text of the picture."""
    return [element.text or "" for element in ElementTree.parse(out / "plot.svg").iter(f"{SVG}text")]


@pytest.mark.parametrize("kind", ["dots", "bits", "curves", "dims"])
def test_the_page_and_its_picture_load_nothing(kind: str, tmp_path: Path) -> None:
    page, report = written(chosen(kind), tmp_path)
    picture = (tmp_path / "plot.svg").read_text()
    assert "![" in report and "](plot.svg)" in report
    for text in (page.replace("http-equiv", ""), picture.replace("http://www.w3.org/2000/svg", "")):
        assert not re.search(r"http|url\(|@import|<script|<image|href=\"[^#]", text)
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg" and root.find(f"{SVG}style") is not None
    assert set(re.findall(r"var\(--(\w+)\)", picture)) <= set(re.findall(r"--(\w+):", picture))


def chosen(kind: str) -> Results:
    """Results that each are drawn in another way."""
    if kind == "curves":
        return results(arms=with_curves([[0.2, 0.4], [0.4, 0.6]]))
    if kind == "dims":
        wide = {at_dims(32): [0.3] * 3, at_dims(64): [0.4] * 3}
        arms = [arm(name, [0.5, 0.6, 0.7], **wide).model_copy(update={"dims": 128}) for name in ("small", "big")]
        return results(arms=arms, metrics=["held-out", at_dims(64)])
    if kind == "bits":
        more = {"held-out, 1 bit": [0.3, 0.4, 0.5], "1-bit loss": [0.1] * 3}
        arms = [arm(name, [0.5, 0.6, 0.7], **more) for name in ("small", "big")]
        return results(arms=arms, metrics=["held-out", "1-bit loss"])
    return results()


def marks(out: Path) -> list[str]:
    """Hover texts of the picture."""
    found = ElementTree.parse(out / "plot.svg").iter(f"{SVG}title")
    return [element.text or "" for element in found][1:]  # the first is its own


def test_arms_are_drawn_with_every_seed_their_mean_and_its_interval(tmp_path: Path) -> None:
    written(chosen("dots"), tmp_path)
    assert marks(tmp_path)[:4] == ["small: 0.400", "small: 0.500", "small: 0.600", "small: 0.500 [0.252, 0.748]"]
    assert len(marks(tmp_path)) == 8


def test_float_and_one_bit_stand_side_by_side_where_the_loss_between_is_asked(tmp_path: Path) -> None:
    written(chosen("bits"), tmp_path)
    assert {"small, float: 0.600 [0.352, 0.848]", "small, 1 bit: 0.400 [0.152, 0.648]"} <= set(marks(tmp_path))


def test_learning_curves_are_means_over_seeds_by_tokens(tmp_path: Path) -> None:
    _, report = written(chosen("curves"), tmp_path)
    assert marks(tmp_path)[:2] == ["small: 0.300 after 1,000 tokens", "small: 0.500 after 2,000 tokens"]
    assert row(report, "small", table=1)[1].startswith("**0.300 ± 1.271")  # t(0.975, 1) · 0.1414 / √2


def test_cut_vectors_are_drawn_by_width_up_to_the_full_one(tmp_path: Path) -> None:
    written(chosen("dims"), tmp_path)
    expected = ["small: 0.300 with 32 dims", "small: 0.400 with 64 dims", "small: 0.600 with 128 dims"]
    assert marks(tmp_path)[:3] == expected
