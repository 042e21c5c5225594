import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limbeck.evaluation.plots import Series, bin_means, line_chart, log_ticks, number, round_ticks


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(1, 12))
def test_round_ticks_enclose_the_data_and_are_few(a, b, count):
    low, high = sorted((a, b))
    assume(high - low > 1e-6 * max(1, abs(low), abs(high)) or low == high)
    ticks = round_ticks(low, high, count)
    slack = (ticks[1] - ticks[0]) * 1e-6
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 3


def test_round_ticks_of_scores_are_what_a_person_would_choose():
    assert round_ticks(0.33, 0.85, 5) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_ticks(0, 1400, 7) == [0, 200, 400, 600, 800, 1000, 1200, 1400]


@given(st.floats(1e-6, 1e6), st.floats(1, 1e6))
def test_log_ticks_enclose_the_data(low, factor):
    ticks = log_ticks(low, low * factor)
    assert ticks[0] <= low * (1 + 1e-6) and ticks[-1] >= low * factor * (1 - 1e-6)
    assert ticks == sorted(set(ticks))


def test_a_log_axis_over_many_tens_has_few_ticks():
    assert log_ticks(0.2, 0.9) == [0.2, 0.3, 0.5, 0.7, 1.0]
    assert log_ticks(0.03, 0.9) == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert log_ticks(0.0003, 0.9) == [0.0001, 0.001, 0.01, 0.1, 1.0]


def test_an_axis_can_be_made_to_start_at_zero():
    series = [Series("s", [(1, 1.0), (2, 0.8)], "ink")]
    chart = line_chart(series, id="x", title="t", description="d", x_label="x", y_label="y", y_from=0.0)
    assert [t.label for t in chart.layouts[0].y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_numbers_on_an_axis_have_no_trailing_zeros():
    assert [number(v) for v in (0.0, 0.25, 1200.0, 0.30000000000000004)] == ["0", "0.25", "1,200", "0.3"]
    assert [number(v) for v in (0.0005, 0.00002)] == ["0.0005", "2e-5"]


def test_a_long_log_is_averaged_into_few_points_and_a_short_one_is_kept():
    rows = [(float(i), float(i % 2)) for i in range(1000)]
    binned = bin_means(rows, 100)
    assert len(binned) == 100 and binned[0] == (4.5, 0.5)
    assert bin_means(rows[:3], 100) == rows[:3]
    assert bin_means([], 100) == []


def test_every_point_lies_inside_the_frame_and_end_labels_keep_apart():
    series = [Series(str(d), [(1, 0.9), (10, 0.2 + d / 1e5)], "student", end_label=str(d)) for d in (32, 64, 128)]
    chart = line_chart(series, id="x", title="t", description="d", x_label="x", y_label="y")
    for layout in chart.layouts:
        ends = [line.end.at for line in layout.lines if line.end]
        assert len(ends) == 3 and all(b - a >= 14.9 for a, b in zip(sorted(ends), sorted(ends)[1:], strict=False))
        for line in layout.lines:
            for point in line.path[1:].split("L"):
                x, y = map(float, point.split(","))
                assert layout.left <= x <= layout.right and layout.top <= y <= layout.bottom


@pytest.mark.parametrize("points", [[(5, 0.5)], [(5, 0.5), (5, 0.5)], [(1, 0.0), (2, 0.0)]])
def test_a_chart_of_one_point_or_of_equal_points_can_be_drawn(points):
    chart = line_chart([Series("s", points, "ink")], id="x", title="t", description="d", x_label="x", y_label="y")
    assert all(line.path.startswith("M") for layout in chart.layouts for line in layout.lines)


def test_labels_that_would_collide_on_a_narrow_screen_are_left_out_but_never_the_last():
    dims = [32, 64, 128, 256, 512, 768, 1024]
    series = [Series("s", [(d, 0.5) for d in dims], "student", marker="circle")]
    chart = line_chart(
        series, id="x", title="t", description="d", x_label="x", y_label="y", x_scale="log", x_ticks=dims
    )
    labels = {layout.css: [t.label for t in layout.x_ticks] for layout in chart.layouts}
    assert labels["wide"] == ["32", "64", "128", "256", "512", "768", "1,024"]
    assert "768" not in labels["narrow"] and labels["narrow"][-1] == "1,024"
