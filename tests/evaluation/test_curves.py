from hypothesis import given
from hypothesis import strategies as st

from limbeck.evaluation.compression import STORAGES
from limbeck.evaluation.curves import bytes_chart, curve_table, dims_charts, frontier, storage, storage_series
from limbeck.evaluation.results import CurvePoint


def point(dim: int, precision: str, score: float, rescored: str | None = None, size: int | None = None) -> CurvePoint:
    body = {"dim": dim, "precision": precision, "rescored_by": rescored, "score": score, "relative_to_full": score}
    return CurvePoint.model_validate(body | {"bytes": size or dim})


A = [point(8, "float32", 0.5, size=32), point(16, "float32", 0.6, size=64), point(16, "binary", 0.4, size=2)]
B = [point(8, "float32", 0.2, size=32), point(16, "float32", 0.9, size=64), point(16, "binary", 0.1, "int8", size=18)]

curve_points = st.lists(
    st.builds(point, st.integers(1, 64), st.just("float32"), st.floats(0, 1), st.none(), st.integers(1, 50)),
    max_size=20,
)


def test_the_frontier_leaves_out_what_a_smaller_or_equal_vector_reaches():
    front = frontier([point(1, "int8", s, size=b) for b, s in ((4, 0.5), (8, 0.4), (8, 0.6), (16, 0.6), (2, 0.1))])
    assert [(p.bytes, p.score) for p in front] == [(2, 0.1), (4, 0.5), (8, 0.6)]


@given(curve_points)
def test_every_point_is_matched_by_one_of_the_frontier_that_is_no_larger_and_no_worse(curve):
    front = frontier(curve)
    assert all(any(f.bytes <= p.bytes and f.score >= p.score for f in front) for p in curve)
    assert all(a.bytes < b.bytes and a.score < b.score for a, b in zip(front, front[1:], strict=False))


def test_charts_side_by_side_have_the_same_axis():
    charts = dims_charts({"a": A, "b": B}, id="x", metric="ndcg_at_10")
    axes = {tuple(t.label for t in chart.layouts[0].y_ticks) for chart in charts.values()}
    assert list(charts) == ["a", "b"] and len(axes) == 1
    assert len({layout.id for chart in charts.values() for layout in chart.layouts}) == 2


def test_a_curve_of_one_width_is_a_table_and_no_chart():
    alone = [point(16, "float32", 0.6), point(16, "binary", 0.5)]
    assert dims_charts({"a": alone}, id="x", metric="m") == {}
    assert bytes_chart({"a": alone[:1]}, {"a": 0}, id="x", metric="m") is None


def test_each_way_of_storing_is_a_line_with_its_own_colour_and_marker():
    curve = [point(d, s.precision, 0.5, s.rescored_by) for s in STORAGES for d in (8, 16)]
    series = storage_series(curve, "Student")
    assert len(series) == len(STORAGES) == len({(s.css, s.marker) for s in series}) == len({s.label for s in series})
    assert all(len(s.points) == 2 and all("Student, " in hover for hover in s.hover) for s in series)


def test_models_on_the_chart_against_bytes_differ_in_colour_and_marker():
    chart = bytes_chart({"a": A, "b": B}, {"a": 0, "b": 1}, id="x", metric="m")
    assert chart and len({(s.css, s.marker) for s in chart.series}) == 2
    assert [x for x, _ in chart.series[0].points] == [2, 32, 64]


def test_the_table_has_a_row_for_each_width_and_storage_that_any_model_has():
    table = curve_table({"a": A, "b": B})
    assert table.head == ["vectors", "bytes", "a", "kept", "b", "kept"]
    assert table.rows == [
        ["float32, 8 dims", "32", "0.500", "50.0%", "0.200", "20.0%"],
        ["float32, 16 dims", "64", "0.600", "60.0%", "0.900", "90.0%"],
        ["1 bit, 16 dims", "2", "0.400", "40.0%", "–", "–"],
        ["1 bit, rescored by int8, 16 dims", "18", "–", "–", "0.100", "10.0%"],
    ]
    assert storage(B[2]) == ("binary", "int8")
