import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.evaluation.plots import KINDS
from limbeck.evaluation.scores import VectorMap
from limbeck.evaluation.vector_map import map_chart, project, vector_map


def blobs(labels: int, each: int, noise: float = 0.3, dim: int = 24) -> tuple[list[str], list[str], np.ndarray]:
    random = np.random.default_rng(7)
    number = np.repeat(np.arange(labels), each)
    vectors = random.normal(size=(labels, dim))[number] + noise * random.normal(size=(labels * each, dim))
    return [f"text {i}" for i in range(len(number))], [f"topic {n}" for n in number], vectors


def of(points: list[tuple[float, float, str]], texts: int | None = None) -> VectorMap:
    body = [{"x": x, "y": y, "label": label, "text": f"about {label}"} for x, y, label in points]
    return VectorMap.model_validate({"points": body, "texts": texts or len(points)})


def test_the_same_vectors_give_the_same_map_and_their_length_does_not_matter():
    texts, labels, vectors = blobs(3, 12)
    first = vector_map(texts, labels, vectors)
    assert first == vector_map(texts, labels, vectors)
    np.testing.assert_allclose(project(vectors), project(4 * vectors))  # a power of two: no rounding differs


def test_texts_that_are_alike_lie_near_each_other():
    texts, labels, vectors = blobs(4, 15)
    points = project(vectors)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert np.mean([labels[i] == labels[j] for i, j in enumerate(nearest)]) > 0.95


def test_every_text_keeps_its_label_and_its_beginning():
    texts, labels, vectors = blobs(2, 5)
    texts[0] = "a\n long  text " * 40
    found = vector_map(texts, labels, vectors)
    assert [p.label for p in found.points] == labels and found.texts == 10
    assert found.points[0].text.startswith("a long text a long") and len(found.points[0].text) <= 160
    assert [p.text for p in found.points[1:]] == texts[1:]


def test_of_many_texts_a_sample_is_mapped():
    texts, labels, vectors = blobs(5, 10)
    found = vector_map(texts, labels, vectors, most=12)
    assert len(found.points) == 12 and found.texts == 50
    assert all(labels[texts.index(p.text)] == p.label for p in found.points)


@pytest.mark.parametrize(("texts", "dim"), [(1, 4), (2, 1), (3, 8), (7, 3), (8, 2), (9, 1)])
def test_few_texts_or_dims_are_mapped_too(texts, dim):
    vectors = np.random.default_rng(0).normal(size=(texts, dim))
    points = project(vectors)
    assert points.shape == (texts, 2) and np.isfinite(points).all()


def test_equal_vectors_are_one_point():
    assert not project(np.ones((20, 6))).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [(np.nan, "NaN"), (np.inf, "NaN or infinity"), (0.0, "zeros")],
)
def test_a_vector_without_a_direction_is_refused(change, reason):
    texts, labels, vectors = blobs(2, 5)
    vectors[3] = change
    with pytest.raises(DataError, match=reason):
        vector_map(texts, labels, vectors)


def test_texts_labels_and_vectors_must_be_as_many_and_some():
    with pytest.raises(DataError, match="2 texts, 1 labels and 2 vectors"):
        vector_map(["a", "b"], ["x"], np.ones((2, 3)))
    with pytest.raises(DataError, match=r"got shape \(0, 3\)"):
        vector_map([], [], np.ones((0, 3)))


def test_each_label_has_a_colour_and_a_shape_of_its_own_the_most_frequent_first():
    chart = map_chart(of([(0, 0, "b"), (1, 1, "a"), (2, 0, "a"), (0, 2, "c")]))
    assert [g.label for g in chart.groups] == ["a", "b", "c"]
    assert len({g.css for g in chart.groups}) == len({g.shape for g in chart.groups}) == 3
    assert chart.groups[0].dots[0].hover == "a: about a"
    assert "a 2, b 1, c 1." in chart.description


def test_labels_beyond_the_colours_share_one_and_lie_behind():
    names = [f"l{i:02}" for i in range(len(KINDS) + 3)]
    chart = map_chart(of([(i, 0, name) for i, name in enumerate([*names, "other", "other"])]))
    assert len(chart.groups) == len(KINDS) + 1
    assert (chart.groups[0].label, len(chart.groups[0].dots)) == ("4 other labels", 4)
    assert chart.groups[1].label == "other" and len(chart.groups[1].dots) == 2  # a label may have that name
    assert sum(len(g.dots) for g in chart.groups) == len(names) + 2


@pytest.mark.parametrize("points", [[(5, 5, "a")], [(-1e3, 0, "a"), (1e3, 1, "b")], [(0, -7, "a"), (0, 9, "a")]])
def test_every_point_lies_inside_the_frame(points):
    chart = map_chart(of(points))
    dots = [d for g in chart.groups for d in g.dots]
    assert all(0 < d.x < chart.width and 0 < d.y < chart.height for d in dots)
