"""Every backend gives the vector of a text, whatever the text is, and whatever is encoded beside it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_adapters import adapted_bundle
from tiny_models import student

import limbeck
from limbeck.errors import ConfigError, ModelError
from limbeck.model import runtime
from limbeck.model.encoder import Encoder

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
BACKENDS = [
    pytest.param({}, id="torch"),
    pytest.param({"compile": True}, id="compiled", marks=pytest.mark.slow),
    pytest.param({"backend": "openvino"}, id="openvino", marks=needs_openvino),
]
ARABIC, HEBREW, COMBINING, EMOJI, CONTROL, PRIVATE = (
    st.characters(min_codepoint=low, max_codepoint=high)
    for low, high in [
        (0x0600, 0x06FF),
        (0x0590, 0x05FF),
        (0x0300, 0x036F),
        (0x1F300, 0x1FAFF),
        (0x00, 0x1F),
        (0xE000, 0xF8FF),
    ]
)
ODD = [
    "",
    " ",
    "\n",
    "\x00",
    "\u202eabc\u202c",
    "\ufeff",
    "👩‍👩‍👧‍👦",
    "e\u0301" * 9,
    "word " * 500,
    "语" * 300,
    "\u200f\u200e",
]
TEXT = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.text(st.one_of(ARABIC, HEBREW, COMBINING, EMOJI, CONTROL, PRIVATE), max_size=40),
    st.text("abc ", min_size=200, max_size=400),
)


@pytest.fixture(scope="module")
def folder(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    section = student(init="pruned", pruned={"layers": [0, 2]})
    return adapted_bundle(tmp_path_factory.mktemp("backends") / "model", section, bert, ["retrieval", "clustering"])


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the bundle in fp32 by one of the backends, loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

        @cache
        def by(**how: Any) -> Encoder:
            return limbeck.load(folder, device="cpu", precision="fp32", **how)

        yield lambda how: by(**how)


@pytest.mark.parametrize("how", BACKENDS)
@given(texts=st.lists(TEXT, min_size=1, max_size=6), random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_vector_depends_on_its_text_alone(how: dict[str, Any], loaded: Any, texts: list[str], random: Any) -> None:
    encoder, exact = loaded(how), loaded({})
    expected = np.stack([exact.encode(text, task="retrieval") for text in texts])
    order = random.sample(range(len(texts)), len(texts))
    for batch_tokens in (1, 80, 16_384):
        found = encoder.encode([texts[i] for i in order], task="retrieval", batch_tokens=batch_tokens)
        np.testing.assert_allclose(found, expected[order], atol=1e-5, rtol=0)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("how", BACKENDS)
def test_tasks_roles_dims_and_spans_are_those_of_the_default_backend(how: dict[str, Any], loaded: Any) -> None:
    encoder, exact, texts = loaded(how), loaded({}), [*ODD, "join two tables", "split the string"]
    asked: list[dict[str, Any]] = [
        {"task": "retrieval", "role": "query"},
        {"task": "clustering", "dim": 8},
        {"task": {"retrieval": 0.3, "clustering": 0.7}},
        {"task": ["retrieval", "clustering"] * 6 + ["retrieval"]},
    ]
    for each in asked:
        np.testing.assert_allclose(encoder.encode(texts, **each), exact.encode(texts, **each), atol=1e-5, rtol=0)
    [spans], [expected] = (e.encode(["join two tables"], task="retrieval", spans=[[(0, 8)]]) for e in (encoder, exact))
    np.testing.assert_allclose(spans, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(encoder.base.encode(texts), exact.base.encode(texts), atol=1e-5, rtol=0)
    assert encoder.fingerprint == exact.fingerprint
    assert (encoder.runtime.backend, encoder.runtime.compiled) == (how.get("backend", "torch"), "compile" in how)


@needs_openvino
def test_a_converted_model_is_kept_and_another_one_is_not_taken_for_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    how: dict[str, Any] = {"device": "cpu", "precision": "fp32", "backend": "openvino"}
    first = limbeck.load(folder, **how).encode("a b", task="retrieval")
    assert [p.name for p in tmp_path.rglob("*.onnx")] == []
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.xml")}
    assert len(kept) == 1
    again = limbeck.load(folder, **how)
    np.testing.assert_array_equal(again.encode("a b", task="retrieval"), first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.xml")} == kept
    limbeck.load(folder, rope_theta=500.0, **how).encode("a b", task="retrieval")
    assert len(list(tmp_path.rglob("model.xml"))) == 2


def test_bf16_keeps_the_vectors_of_fp32(folder: Path, loaded: Any) -> None:
    texts = [text for text in ODD if len(text) > 3] + ["join two tables", "Split the string at the first sep."]
    fast = limbeck.load(folder, device="cpu", precision="bf16").encode(texts, task="retrieval")
    exact = loaded({}).encode(texts, task="retrieval")
    # weights of a tiny model are drawn so large that rounding shows; trained ones stay above 0.999
    assert (fast * exact).sum(axis=1).min() > 0.99


def test_a_backend_that_does_not_go_with_the_rest_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="backend must be one of torch, openvino; got 'tensorrt'"):
        limbeck.load(folder, backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="OpenVINO compiles by itself"):
        limbeck.load(folder, device="cpu", backend="openvino", compile=True)
    with pytest.raises(ConfigError, match='load with device="cpu", got meta'):
        limbeck.load(folder, device="meta", backend="openvino")
    monkeypatch.setattr("limbeck.model.openvino.installed", lambda: False)
    with pytest.raises(ModelError, match=r"pip install 'limbeck\[openvino\]'"):
        limbeck.load(folder, device="cpu", backend="openvino")


def test_torch_has_no_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(runtime, "usable_cores", lambda: 2)
        assert runtime.limit_threads() == torch.get_num_threads() == 2
        torch.set_num_threads(1)  # who asks for fewer keeps them
        assert runtime.limit_threads() == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
