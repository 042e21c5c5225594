"""Each format, used as the README of the export says, gives the vectors of the model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_bundles import LONGEST, PROMPTS, TEXTS, THETA, make_bundle

import limbeck
from limbeck.errors import ConfigError, ModelError
from limbeck.export import agreement, export
from limbeck.export.facts import read_facts
from limbeck.export.targets import TARGETS

GRAPHS = [
    pytest.param("onnx", marks=pytest.mark.skipif(bool(TARGETS["onnx"].missing), reason="needs onnxruntime")),
    pytest.param("openvino", marks=pytest.mark.skipif(bool(TARGETS["openvino"].missing), reason="needs openvino")),
]
PAIR = ["retrieval", "clustering"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, as its graph is written over and over."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "model", tasks=PAIR, num_hidden_layers=1)


def vectors_of(bundle: Path, task: str, role: str = "document") -> np.ndarray:
    return limbeck.load(bundle, device="cpu", precision="fp32").encode(TEXTS, task=task, role=role)


def as_its_readme_says(folder: Path) -> dict[str, Any]:
    """The names that the README's Python leaves behind."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("layout", GRAPHS)
def test_a_graph_with_its_adapters_encodes_batches_of_mixed_tasks(layout: Any, bundle: Path, tmp_path: Path) -> None:
    out = export(bundle, tmp_path / "out", format=layout)
    names = as_its_readme_says(out)
    assert names["vectors"].shape == (2, 32)
    tasks = [PAIR[i % 2] for i in range(len(TEXTS))]
    found = names["encode"](TEXTS, tasks=tasks)
    wanted = {task: vectors_of(bundle, task) for task in PAIR}
    np.testing.assert_allclose(found, [wanted[task][i] for i, task in enumerate(tasks)], atol=1e-5)
    asked = names["encode"](TEXTS, tasks=["retrieval"] * len(TEXTS), role="query")
    np.testing.assert_allclose(asked, vectors_of(bundle, "retrieval", "query"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", GRAPHS)
def test_int8_weights_are_near_the_float_ones_smaller_and_say_what_they_cost(
    layout: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stdlib").mkdir()
    source = "".join(
        f'def f{i}():\n    """Return the {i}th part.\n\n    It is {"very " * (i + 9)}long."""\n' for i in range(9)
    )
    (tmp_path / "stdlib" / "parts.py").write_text(source)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "stdlib")})
    out = export(bundle, tmp_path / "out", format=layout, task="clustering", precision="int8")
    found = as_its_readme_says(out)["encode"](TEXTS)
    cosines = (found * vectors_of(bundle, "clustering")).sum(axis=1)
    facts = read_facts(out)
    assert facts is not None and facts.min_cosine is not None and facts.retrieval is not None
    assert 0.99 <= facts.min_cosine <= cosines.min() + 1e-3
    assert np.abs(found - vectors_of(bundle, "clustering")).max() > 1e-5  # it is rounded
    assert (facts.precision, facts.retrieval.documents, facts.retrieval.task) == ("int8", 9, "clustering")
    assert str(facts.retrieval) in (out / "README.md").read_text()


def test_sentence_transformers_loads_the_one_adapter_that_was_merged(bundle: Path, tmp_path: Path) -> None:
    out = export(bundle, tmp_path / "out", format="sentence-transformers", task="retrieval")
    assert as_its_readme_says(out)["queries"].shape == (1, 32)
    model = SentenceTransformer(str(out), device="cpu")
    for role in PROMPTS:
        found = model.encode(TEXTS, prompt_name=role)
        np.testing.assert_allclose(found, vectors_of(bundle, "retrieval", role), atol=1e-5)
    again = limbeck.load(out, device="cpu", precision="fp32").encode(TEXTS, role="query")
    np.testing.assert_allclose(again, vectors_of(bundle, "retrieval", "query"), atol=1e-5)


def test_where_no_task_is_named_sentence_transformers_gets_a_folder_for_each(bundle: Path, tmp_path: Path) -> None:
    out = export(bundle, tmp_path / "out", format="sentence-transformers")
    assert as_its_readme_says(out)["vectors"].shape == (1, 32)
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "clustering", "limbeck_export.json", "retrieval"]
    for task in PAIR:
        found = SentenceTransformer(str(out / task), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(found, vectors_of(bundle, task), atol=1e-5)
        facts = read_facts(out / task)
        assert facts is not None and (facts.tasks, facts.name) == ([task], f"tiny-{task}")


def test_an_export_of_a_published_layout_says_what_the_model_is(bundle: Path, tmp_path: Path) -> None:
    published = export(bundle, tmp_path / "published", format="jina-v5")
    out = export(published, tmp_path / "out", format="sentence-transformers", task="clustering")
    np.testing.assert_allclose(
        SentenceTransformer(str(out), device="cpu").encode(TEXTS), vectors_of(bundle, "clustering"), atol=1e-5
    )
    facts, of_bundle = read_facts(out), limbeck.load(bundle, device="cpu", precision="fp32")
    assert facts is not None
    assert (facts.dims, facts.max_tokens, facts.rope_theta) == ([8, 16, 32], LONGEST, THETA)
    assert facts.fingerprint == of_bundle.fingerprint  # of the model that it all came from


def test_an_export_carries_prefixes_dims_theta_licences_and_how_near_it_is(bundle: Path, tmp_path: Path) -> None:
    out = export(bundle, tmp_path / "out", format="jina-v5")
    body, readme = json.loads((out / "limbeck_export.json").read_text()), (out / "README.md").read_text()
    assert (body["prompts"], body["dims"], body["rope_theta"]) == (PROMPTS, [8, 16, 32], THETA)
    assert (body["format"], body["tasks"], body["pooling"], body["max_tokens"]) == ("jina-v5", PAIR, "last", LONGEST)
    assert body["min_cosine"] == pytest.approx(1)
    assert body["fingerprint"] == limbeck.load(bundle, device="cpu", precision="fp32").fingerprint
    assert {origin["licence"] for origin in body["licences"].values()} == {"unknown"}
    for part in ("| RoPE theta | 40000 |", "| licence of the model | unknown |", body["fingerprint"]):
        assert part in readme


# ------------------------------------------------------------------------------------------- refusals


def test_an_export_that_is_too_far_from_the_model_leaves_nothing_behind(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(bundle, tmp_path / "out", format="jina-v5")
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    monkeypatch.setattr(agreement, "least_cosine", lambda *_: 0.5)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(ModelError, match=r"least cosine over \d+ texts is 0.500000, and 0.9999 is needed"):
            export(bundle, folder, format="jina-v5")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"format": "onnx", "task": "translation"}, "unknown task 'translation'; known are retrieval, clustering"),
        ({"format": "onnx", "precision": "int4"}, "unknown precision 'int4'; known are fp32, int8"),
        ({"format": "jina-v5", "precision": "int8"}, "jina-v5 has no int8 weights: .* one of onnx, openvino"),
        ({"format": "jina-v5", "task": "retrieval"}, "holds all adapters: leave the task out"),
    ],
)
def test_what_a_format_does_not_have_is_refused_before_anything_is_written(
    asked: dict[str, Any], message: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.export.targets.find_spec", lambda _: object())
    with pytest.raises(ConfigError, match=message):
        export(bundle, tmp_path / "out", **asked)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_not_installed_is_an_error_that_says_how_to_install_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.export.targets.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ModelError, match=r"onnx format needs onnxruntime, .*pip install 'limbeck\[export\]'"):
        export(bundle, tmp_path / "out", format="onnx")
