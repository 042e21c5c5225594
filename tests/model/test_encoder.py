"""What users import: the vectors of a bundle, the same everywhere, whatever else is in the batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_adapters import adapted_bundle, adapters_of, drawn
from tiny_models import FRESH, WIDTH, spec_of, student
from torch import nn

import limbeck
from limbeck import compress
from limbeck.config import TASKS
from limbeck.errors import ConfigError, DataError, ModelError, TextError
from limbeck.model import backbone as backbones
from limbeck.model import passes
from limbeck.model.adapters import merged
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.router import Router
from limbeck.model.student import StudentModel

TEXTS = [
    "",
    " ",
    "a",
    "  join two tables \n",
    "Return a new array of given shape and type.",
    "日本語のテキスト 🙂 e\u0301 \u200f",
    "[SEP] and <|endoftext|> inside",
    *("word " * n for n in (5, 20, 26, 27, 28, 29, 30, 31, 32, 33, 60)),
    "Split the string at the first occurrence of sep. " * 40,
]


def sections(teachers: dict[str, Path]) -> dict[str, Any]:
    fresh = {"init": "fresh", "dims": [8, 24]}
    return {
        "rotary BERT": (student(init="pruned", pruned={"layers": [0, 2]}), "bert"),
        "averaging BERT": (student(init="pruned", pruned={"layers": [0, 2], "pool_attention": True}), "bert"),
        "causal Qwen3 over word pieces": (student(**fresh, fresh=FRESH), "bert"),
        "causal Qwen3 over bytes": (student(**fresh, fresh=FRESH), "qwen3"),
        "bidirectional Qwen3": (student(**fresh, fresh=FRESH | {"causal": False}), "qwen3"),
        "pretrained Qwen3": (student(model=str(teachers["qwen3"])), "qwen3"),
        "EuroBERT": (student(model=str(teachers["eurobert"])), "eurobert"),
        "ModernBERT": (student(model=str(teachers["modernbert"])), "modernbert"),
        "EuroBERT, mean": (student(model=str(teachers["eurobert"]), pooling="mean"), "eurobert"),
        "EuroBERT, cls": (student(model=str(teachers["eurobert"]), pooling="cls"), "eurobert"),
        "bidirectional Qwen3, mean": (student(**fresh, fresh=FRESH | {"causal": False}, pooling="mean"), "qwen3"),
        "causal Qwen3, mean": (student(**fresh, fresh=FRESH, pooling="mean"), "qwen3"),
        "rotary BERT, cls": (student(init="pruned", pruned={"layers": [1]}, pooling="cls"), "bert"),
        "long texts": (student(init="pruned", pruned={"layers": [1]}, max_tokens=600), "bert"),
    }


KINDS = list(sections(dict.fromkeys(["qwen3", "eurobert", "modernbert"], Path())))


@pytest.fixture
def teachers(bert: Path, qwen3: Path, eurobert: Path, modernbert: Path) -> dict[str, Path]:
    return {"bert": bert, "qwen3": qwen3, "eurobert": eurobert, "modernbert": modernbert}


@pytest.fixture
def bundle(make_bundle, bert: Path) -> Path:
    return make_bundle(student(init="pruned", pruned={"layers": [0, 2]}), bert)


@pytest.fixture
def encoder(bundle: Path) -> Encoder:
    return load(bundle, device="cpu", precision="fp32")


# -------------------------------------------------------------------------- the same as the others


@pytest.mark.parametrize("kind", KINDS)
def test_sentence_transformers_gives_the_same_vectors(kind: str, teachers: dict[str, Path], make_bundle) -> None:
    from sentence_transformers import SentenceTransformer

    section, teacher = sections(teachers)[kind]
    folder = make_bundle(section, teachers[teacher])
    ours = limbeck.load(folder, device="cpu", precision="fp32")
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert theirs.max_seq_length == ours.max_tokens
    assert theirs.get_embedding_dimension() == ours.dim
    for role in ("query", "document"):
        expected = theirs.encode(TEXTS, prompt_name=role, batch_size=4)
        np.testing.assert_allclose(ours.encode(TEXTS, role=role), expected, atol=1e-5, rtol=0)
    default = theirs.encode(TEXTS, batch_size=32)
    np.testing.assert_allclose(ours.encode(TEXTS), default, atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.encode(TEXTS, role="query"), theirs.encode_query(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode_document(TEXTS), atol=1e-5, rtol=0)
    # one at a time: nothing is padded, and other code paths are taken
    np.testing.assert_allclose(ours.encode(TEXTS[4]), theirs.encode(TEXTS[4]), atol=1e-5, rtol=0)
    assert np.abs(ours.encode(TEXTS[4]) - ours.encode(TEXTS[4], role="query")).max() > 0.01


def test_the_bundle_gives_the_vectors_of_the_model_it_was_saved_from(make_bundle, bert: Path) -> None:
    section = student(init="pruned", pruned={"layers": [0, 2]})
    built = backbones.build(section, bert, seed=1)
    in_memory = Encoder(
        StudentModel(built.model, pooling="last"),
        built.tokenizer,
        spec_of(section),
        device=torch.device("cpu"),
        precision="fp32",
    )
    saved = load(make_bundle(section, bert), device="cpu", precision="fp32")
    np.testing.assert_allclose(in_memory.encode(TEXTS), saved.encode(TEXTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_does_not_change_a_vector(encoder: Encoder, attention: str) -> None:
    before = encoder.encode(TEXTS)
    encoder.model.backbone.set_attn_implementation(attention)  # type: ignore[operator]
    np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-5, rtol=0)


def test_bf16_stays_close_to_fp32(bundle: Path) -> None:
    exact, fast = (load(bundle, device="cpu", precision=p).encode(TEXTS) for p in ("fp32", "bf16"))
    assert fast.dtype == np.float32
    assert (exact * fast).sum(axis=1).min() > 0.99


# ---------------------------------------------------------------------------- independent of others


@pytest.fixture(scope="module")
def shared(tmp_path_factory, eurobert: Path) -> Encoder:
    """One encoder for tests that only read it."""
    from limbeck.model.bundle import save_bundle

    section = student(model=str(eurobert))
    built = backbones.build(section, eurobert, seed=1)
    folder = tmp_path_factory.mktemp("shared") / "model"
    save_bundle(folder, backbone=built.model, tokenizer=built.tokenizer, spec=spec_of(section), projection=None)
    return load(folder, device="cpu", precision="fp32")


odd_text = st.text(st.characters(codec="utf-8"), max_size=60)


@given(texts=st.lists(odd_text, min_size=1, max_size=8), random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_vector_depends_on_its_text_only(shared: Encoder, texts: list[str], random) -> None:
    alone = np.stack([shared.encode(t) for t in texts])
    order = list(range(len(texts)))
    random.shuffle(order)
    for batch_tokens in (1, 40, 16_384):
        together = shared.encode([texts[i] for i in order], batch_tokens=batch_tokens)
        np.testing.assert_allclose(together, alone[order], atol=1e-5, rtol=0)
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_padding_never_change_a_vector(kind: str, teachers: dict[str, Path], make_bundle) -> None:
    section, teacher = sections(teachers)[kind]
    encoder = load(make_bundle(section, teachers[teacher]), device="cpu", precision="fp32")
    alone = np.stack([encoder.encode(t) for t in TEXTS])
    for order in (slice(None), slice(None, None, -1)):
        np.testing.assert_allclose(encoder.encode(TEXTS[order]), alone[order], atol=1e-5, rtol=0)


def test_more_texts_than_are_tokenised_at_once_keep_their_places(shared: Encoder, monkeypatch) -> None:
    whole = shared.encode(TEXTS)
    counted = shared.truncated
    monkeypatch.setattr(passes, "_CHUNK", 4)
    np.testing.assert_allclose(shared.encode(TEXTS), whole, atol=1e-5, rtol=0)
    assert shared.truncated == counted
    with pytest.raises(ModelError, match="text 19 is not valid Unicode"):
        shared.encode([*TEXTS, "\ud800"])
    with pytest.raises(ModelError, match="text 19 must be a str, got int"):
        shared.encode([*TEXTS, 3])  # type: ignore[list-item]


def test_texts_over_the_limit_are_cut_and_counted(shared: Encoder) -> None:
    long = ["word " * 1000, "word " * 2000]
    vectors = shared.encode([*long, "short"])
    assert shared.truncated == 2
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    shared.encode(["short"])
    assert shared.truncated == 0


def test_a_text_of_100_000_characters_has_a_vector(shared: Encoder) -> None:
    assert np.linalg.norm(shared.encode("x y" * 33_334)) == pytest.approx(1, abs=1e-5)


def test_texts_over_the_limit_are_an_error_where_that_is_asked_for(shared: Encoder, adapted: Encoder) -> None:
    long = "word " * 1000
    with pytest.raises(
        ModelError, match=r"text 1 has 4,006 tokens, over the limit of 32: shorten it, or let it be cut"
    ):
        shared.encode(["short", long], on_long="error")
    with pytest.raises(TextError, match="text 2 has") as caught:
        adapted.encode(["a", "b", long], task=["retrieval", "clustering", "clustering"], on_long="error")
    assert caught.value.index == 2
    assert np.array_equal(shared.encode(["short"], on_long="error"), shared.encode(["short"]))
    with pytest.raises(ConfigError, match="on_long must be one of truncate, error, got 'cut'"):
        shared.encode(["short"], on_long="cut")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rotary BERT", "causal Qwen3 over bytes", "EuroBERT"])
def test_an_empty_text_and_a_word_of_100_000_characters_have_vectors(
    kind: str, teachers: dict[str, Path], make_bundle
) -> None:
    section, teacher = sections(teachers)[kind]
    encoder = load(make_bundle(section, teachers[teacher]), device="cpu", precision="fp32")
    vectors = encoder.encode(["", "x" * 100_000, "é" * 100_000])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], encoder.encode(""), atol=1e-5)


# ----------------------------------------------------------------------------------- late chunking


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_one_span_has_the_vector_of_the_text(kind: str, teachers: dict[str, Path], make_bundle) -> None:
    section, teacher = sections(teachers)[kind]
    encoder = load(make_bundle(section, teachers[teacher]), device="cpu", precision="fp32")
    texts = [text for text in TEXTS if text.strip() and len(text) < 100]
    for role in ("query", "document"):
        expected = encoder.encode(texts, role=role)
        whole = [t for t in texts if len(encoder.tokenizer.hf("Document: " + t).input_ids) < encoder.max_tokens]
        found = encoder.encode(whole, role=role, spans=[[(0, len(text))] for text in whole])
        assert len(whole) >= 5
        for text, vector in zip(whole, found, strict=True):
            np.testing.assert_allclose(vector, expected[[texts.index(text)]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_a_span_in_a_bidirectional_model_is_pooled_from_the_states_of_its_tokens(
    pooling: str, eurobert: Path, make_bundle
) -> None:
    encoder = load(make_bundle(student(model=str(eurobert), pooling=pooling), eurobert), device="cpu", precision="fp32")
    text, span = "join two tables on a key", (5, 15)  # "two tables"
    ids = encoder.tokenizer.hf("Document: " + text, return_tensors="pt", return_offsets_mapping=True)
    offsets = ids.pop("offset_mapping")[0] - len("Document: ")
    inside = [i for i, (begin, end) in enumerate(offsets.tolist()) if end > begin >= span[0] and end <= span[1]]
    with torch.no_grad():
        states = encoder.model.backbone(ids.input_ids).last_hidden_state[0, inside]
    by_hand = {"last": states[-1], "mean": states.mean(dim=0), "cls": states[0]}[pooling]
    [[found]] = encoder.encode([text], spans=[[span]])
    np.testing.assert_allclose(found, torch.nn.functional.normalize(by_hand, dim=0), atol=1e-6)
    # what stands around it is known to it
    [[other]] = encoder.encode([text.replace("join", "split")], spans=[[(6, 16)]])
    assert np.abs(found - other).max() > 1e-3


def test_a_span_of_a_causal_model_does_not_know_what_follows_it(teachers: dict[str, Path], make_bundle) -> None:
    section, teacher = sections(teachers)["pretrained Qwen3"]
    encoder = load(make_bundle(section, teachers[teacher]), device="cpu", precision="fp32")
    [first, second] = encoder.encode(
        ["join two tables", "join two strings"], spans=[[(0, 8), (9, 15)], [(0, 8), (9, 16)]]
    )
    np.testing.assert_allclose(first[0], second[0], atol=1e-6)
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_spans_work_with_tasks_dims_and_precisions(adapted: Encoder) -> None:
    texts = ["join two tables", "", "a", "split the string at sep"]
    spans: Any = [[(5, 8), (0, 15), (5, 8)], [], [(0, 1)], [(0, 23)]]
    plain = adapted.encode(texts, task="retrieval", dim=16)
    found = adapted.encode(texts, task="retrieval", dim=16, spans=spans)
    assert [f.shape for f in found] == [(3, 16), (0, 16), (1, 16), (1, 16)]
    assert np.array_equal(found[0][0], found[0][2])
    for vector, i in ((found[0][1], 0), (found[2][0], 2), (found[3][0], 3)):
        np.testing.assert_allclose(vector, plain[i], atol=1e-6)
    rows = np.concatenate(found)
    precisions: tuple[compress.Precision, ...] = ("int8", "binary", "ubinary")
    for precision in precisions:
        expected = compress.compress(rows, precision)
        small = adapted.encode(texts, task="retrieval", dim=16, spans=spans, precision=precision)
        if precision == "int8":
            assert [len(codes) for codes, _ in small] == [len(scales) for _, scales in small] == [3, 0, 1, 1]
            for part in (0, 1):
                assert np.array_equal(np.concatenate([pair[part] for pair in small]), expected[part])
        else:
            assert np.array_equal(np.concatenate(small), expected)
    mixed = adapted.encode(texts, task=["retrieval", "auto", "clustering", "retrieval"], dim=16, spans=spans)
    np.testing.assert_allclose(mixed[0], found[0], atol=1e-6)
    np.testing.assert_allclose(mixed[2][0], adapted.encode("a", task="clustering", dim=16), atol=1e-6)
    asked = adapted.encode(["a b"], task="retrieval", role="query", spans=[[(0, 3)]])
    np.testing.assert_allclose(asked[0][0], adapted.encode("a b", task="retrieval", role="query"), atol=1e-6)


def test_spans_of_one_text_are_one_array(shared: Encoder) -> None:
    text = "join two tables on a key"
    spans = limbeck.spans_of(text, max_chars=10)
    found = shared.encode(text, spans=spans)
    assert found.shape == (len(spans), WIDTH) and len(spans) > 1
    np.testing.assert_allclose(found, shared.encode([text], spans=[spans])[0], atol=1e-6)
    codes, scales = shared.encode(text, spans=spans, precision="int8")
    assert (codes.shape, scales.shape) == ((len(spans), WIDTH), (len(spans),))
    assert shared.encode([], spans=[]) == []


def test_spans_do_not_depend_on_the_batch_and_keep_their_places(shared: Encoder, monkeypatch) -> None:
    texts = [text for text in TEXTS if len(text) < 100]
    spans = [limbeck.spans_of(text, max_chars=12) for text in texts]
    alone = [shared.encode(text, spans=asked) for text, asked in zip(texts, spans, strict=True)]
    monkeypatch.setattr(passes, "_CHUNK", 4)
    for budget in (1, 64, 16_384):
        together = shared.encode(texts, spans=spans, batch_tokens=budget)
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_span_that_cannot_be_had_is_an_error_that_names_text_and_span(shared: Encoder, adapted: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"text 1, span 0: \(1, 2\) is white space only"):
        shared.encode(["fine", "a b"], spans=[[], [(1, 2)]])
    with pytest.raises(ConfigError, match="spans are a list for each text: got 1 for 2 texts"):
        shared.encode(["fine", "a b"], spans=[[(0, 1)]])
    long = "join " * 100
    with pytest.raises(ModelError, match=r"text 2 is cut at 32 tokens, after \d+ characters, and span 1, \(490, 494\)"):
        adapted.encode(["a", "b", long], spans=[[], [], [(0, 4), (490, 494)]], task=["retrieval"] * 2 + ["clustering"])
    shared.encode([long], spans=[[(0, 4)]])
    assert shared.truncated == 1


def test_long_texts_are_never_padded(shared: Encoder, monkeypatch) -> None:
    """The mask that padding needs is as large as the length squared."""
    texts = TEXTS + ["a", "b c", "d"] * 4
    expected = shared.encode(texts)
    seen: list[torch.Tensor] = []
    forward = StudentModel.forward
    monkeypatch.setattr(StudentModel, "forward", lambda s, ids, mask: (seen.append(mask), forward(s, ids, mask))[1])
    monkeypatch.setattr(passes, "_ALONE", 20)
    monkeypatch.setattr(passes, "packs", lambda backbone, device: False)  # else nothing is padded
    np.testing.assert_allclose(shared.encode(texts, batch_tokens=16_384), expected, atol=1e-5, rtol=0)
    long = [mask for mask in seen if mask.sum(dim=1).max() > 20]
    assert long and all(len(mask) == 1 and mask.all() for mask in long)
    assert any(len(mask) > 1 for mask in seen)


# ------------------------------------------------------------------------------- shapes and options


def test_one_text_gives_one_vector_and_many_a_matrix_in_order(shared: Encoder) -> None:
    one = shared.encode("join two tables")
    many = shared.encode(("a", "join two tables"))
    assert (one.shape, many.shape, one.dtype) == ((WIDTH,), (2, WIDTH), np.float32)
    np.testing.assert_allclose(many[1], one, atol=1e-5)


@pytest.mark.parametrize("precision", compress.PRECISIONS)
def test_no_texts_give_no_vectors_of_the_right_width(shared: Encoder, precision) -> None:
    expected = compress.compress(np.ones((1, 16), np.float32), precision)
    found = shared.encode([], dim=16, precision=precision)
    for one, none in zip(*((p if isinstance(p, tuple) else (p,)) for p in (expected, found)), strict=True):
        assert none.shape == (0, *one.shape[1:])
        assert none.dtype == one.dtype


@pytest.mark.parametrize("dim", [1, 5, 8, 16, WIDTH])
def test_fewer_dims_are_the_first_ones_at_length_one(shared: Encoder, dim: int) -> None:
    expected = compress.truncate(shared.encode(TEXTS), dim)
    np.testing.assert_allclose(shared.encode(TEXTS, dim=dim), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dim", [None, 8, 16])
@pytest.mark.parametrize("precision", ["int8", "binary", "ubinary"])
def test_a_smaller_precision_is_that_of_the_float_vectors(shared: Encoder, precision, dim: int | None) -> None:
    expected = compress.compress(shared.encode(TEXTS, dim=dim), precision)
    found = shared.encode(TEXTS, dim=dim, precision=precision)
    single = shared.encode(TEXTS[3], dim=dim, precision=precision)
    if precision == "int8":
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
        assert (single[0].shape, single[1].shape) == ((dim or WIDTH,), ())
    else:
        assert np.array_equal(found, expected)
        assert single.shape == ((dim or WIDTH) // 8,)


def test_progress_counts_every_text_once(shared: Encoder) -> None:
    seen: list[int] = []
    shared.encode(TEXTS, batch_tokens=64, progress=seen.append)
    assert sum(seen) == len(TEXTS)
    assert len(seen) > 1
    seen.clear()
    shared.encode("one", progress=seen.append)
    assert seen == [1]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"role": "passage"}, "role must be one of query, document, got 'passage'"),
        ({"task": "retrieval"}, "unknown task 'retrieval'; known are none: this bundle has no adapters"),
        ({"dim": 33}, r"dim must be from 1 to 32, got 33; trained widths are \[8, 16, 32\]"),
        ({"dim": 0}, "dim must be from 1 to 32, got 0"),
        ({"precision": "fp16"}, "precision must be one of float32, int8, binary, ubinary, got 'fp16'"),
        ({"precision": "ubinary", "dim": 12}, "dim must be a multiple of 8, got 12"),
    ],
)
def test_a_setting_that_does_not_exist_is_an_error_before_any_text_is_read(shared, settings_, message: str) -> None:
    for texts in (["fine"], []):
        with pytest.raises(ConfigError, match=message):
            shared.encode(texts, **settings_)


def test_vectors_that_are_not_finite_are_not_packed_into_bits(encoder: Encoder) -> None:
    with torch.no_grad():
        next(encoder.model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        encoder.encode(["a"], precision="ubinary")


def test_an_encoder_says_its_widths_and_its_limit(shared: Encoder) -> None:
    assert (shared.dim, shared.dims, shared.max_tokens) == (WIDTH, [8, 16, WIDTH], 32)
    shared.dims.clear()
    assert shared.dims == [8, 16, WIDTH]


def test_encoding_leaves_no_gradient_and_no_dropout(encoder: Encoder) -> None:
    assert not encoder.model.training
    assert np.array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))


def test_the_projection_comes_with_the_bundle_and_says_when_it_does_not(bundle: Path, encoder: Encoder) -> None:
    assert encoder.projection.teacher_dim == 12
    assert encoder.projection(torch.ones(1, 8)).shape == (1, 12)
    (bundle / "projection.safetensors").unlink()
    with pytest.raises(ModelError, match="tiny was saved without its projection"):
        _ = load(bundle, device="cpu").projection


# ----------------------------------------------------------------------------------------- adapters


def sections_with_adapters(teachers: dict[str, Path]) -> dict[str, Any]:
    return {
        "Qwen3": (student(model=str(teachers["qwen3"])), "qwen3"),
        "EuroBERT": (student(model=str(teachers["eurobert"])), "eurobert"),
        "rotary BERT": (student(init="pruned", pruned={"layers": [0, 2]}), "bert"),
    }


@pytest.fixture(scope="module")
def adapted_folder(tmp_path_factory, eurobert: Path) -> Path:
    """With a router that gives texts of many words to clustering, and the others to retrieval."""
    section = student(model=str(eurobert))
    folder = adapted_bundle(tmp_path_factory.mktemp("base") / "model", section, eurobert, tasks=())
    vectors = load(folder, device="cpu", precision="fp32").encode(SHORT + LONG)
    tasks = ["retrieval"] * len(SHORT) + ["clustering"] * len(LONG)
    router = Router.fit(vectors, tasks, regularisation=1e-8)  # they are separable: it is to be sure of itself
    return adapted_bundle(tmp_path_factory.mktemp("adapted") / "model", section, eurobert, router=router)


WORDS = ("join", "table", "array", "string", "split", "sep", "shape", "fox")
SHORT = [f"{a} {b}?" for a in WORDS for b in WORDS]
LONG = [f"{a} " * 3 + f"{b} " * 12 for a in WORDS for b in WORDS]


@pytest.fixture
def adapted(adapted_folder: Path) -> Encoder:
    return load(adapted_folder, device="cpu", precision="fp32")


@pytest.mark.parametrize("kind", sections_with_adapters(dict.fromkeys(["qwen3", "eurobert"], Path())))
def test_vectors_of_a_task_are_those_of_its_adapter_attached_by_peft(
    kind: str, teachers: dict[str, Path], tmp_path: Path
) -> None:
    import peft

    section, teacher = sections_with_adapters(teachers)[kind]
    folder = adapted_bundle(tmp_path / "model", section, teachers[teacher], tasks=["retrieval", "text-matching"])
    ours, base = (load(folder, device="cpu", precision="fp32") for _ in range(2))
    backbone: Any = base.model.backbone
    by_task = [ours.base.encode(TEXTS)]
    for task in ours.tasks:
        attached = peft.PeftModel.from_pretrained(backbone, str(folder / "adapters" / task), adapter_name=task).eval()
        for role in ("query", "document") if task == "retrieval" else ("document",):
            expected = base.base.encode(TEXTS, role=role)
            np.testing.assert_allclose(ours.encode(TEXTS, task=task, role=role), expected, atol=1e-5, rtol=0)
        by_task.append(base.base.encode(TEXTS))
        attached.unload()
    assert min(np.abs(a - b).max(axis=1).min() for i, a in enumerate(by_task) for b in by_task[:i]) > 1e-3


def test_sentence_transformers_loads_the_base_of_a_bundle_with_adapters(adapted_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(adapted_folder), device="cpu")
    ours = load(adapted_folder, device="cpu", precision="fp32").base
    assert (ours.tasks, ours.router) == ([], None)
    for role in ("query", "document"):
        expected = theirs.encode(TEXTS, prompt_name=role)
        np.testing.assert_allclose(ours.encode(TEXTS, role=role), expected, atol=1e-5, rtol=0)


def test_a_task_is_needed_and_an_unknown_one_is_an_error_that_lists_the_known(adapted: Encoder) -> None:
    known = "retrieval, text-matching, clustering, classification, auto"
    for texts in (["fine"], []):
        with pytest.raises(ConfigError, match=f"tiny has adapters, so `task` is needed: one of {known}, or a blend"):
            adapted.encode(texts)
        for task in ("translation", {"retrieval": 1, "translation": 1}, ["translation"] * len(texts) or "translation"):
            with pytest.raises(ConfigError, match=f"unknown task 'translation'; known are {known}"):
                adapted.encode(texts, task=task)


@pytest.mark.parametrize(
    "blend",
    [
        {},
        {"retrieval": 0.0},
        {"retrieval": 1.0, "clustering": -0.1},
        {"retrieval": float("nan")},
        {"retrieval": float("inf")},
        {"retrieval": "much"},
    ],
)
def test_a_blend_that_means_nothing_is_an_error(adapted: Encoder, blend: dict) -> None:
    with pytest.raises(ConfigError, match="a blend has weights of 0 or more, at least one above 0; got "):
        adapted.encode(["a"], task=blend)


def test_a_blend_is_the_mean_of_its_adapters_by_weight(adapted: Encoder) -> None:
    backbone = adapted.model.backbone
    parts = adapters_of(backbone)
    by_hand = merged(backbone, [(parts["retrieval"], 0.7), (parts["clustering"], 0.3)])
    expected = Encoder(
        StudentModel(by_hand, pooling="last"),
        adapted.tokenizer,
        adapted.spec,
        device=torch.device("cpu"),
        precision="fp32",
    )
    blend = {"clustering": 3, "retrieval": 7, "classification": 0}  # by weight, in any order, and 0 is none
    for role in ("query", "document"):
        found = adapted.encode(TEXTS, task=blend, role=role)
        np.testing.assert_allclose(found, expected.encode(TEXTS, role=role), atol=1e-5, rtol=0)
        again = adapted.encode(TEXTS, task={"retrieval": 0.7, "clustering": 0.3}, role=role)
        assert np.array_equal(again, adapted.encode(TEXTS, task={"clustering": 0.3, "retrieval": 0.7}, role=role))
    assert np.array_equal(adapted.encode(TEXTS, task={"retrieval": 5}), adapted.encode(TEXTS, task="retrieval"))


def test_only_retrieval_has_queries(adapted: Encoder) -> None:
    for task in (
        "clustering",
        {"clustering": 1, "text-matching": 1},
        {"clustering": 1, "retrieval": 0},
        ["clustering"],
    ):
        with pytest.raises(ConfigError, match="no prefix for task '.*' with role 'query': known are retrieval/query"):
            adapted.encode(["a"], task=task, role="query")
    asked = adapted.encode(["a"], task={"clustering": 1, "retrieval": 1}, role="query")
    assert np.abs(asked - adapted.encode(["a"], task={"clustering": 1, "retrieval": 1})).max() > 1e-3


def test_mixed_tasks_give_each_text_the_bits_of_a_call_for_its_task(adapted: Encoder, monkeypatch) -> None:
    tasks = [TASKS[(i * i) % 4] for i in range(len(TEXTS))]
    cases: list[tuple[int, compress.Precision]] = [(16_384, "float32"), (4, "ubinary")]
    for chunk, precision in cases:
        monkeypatch.setattr(passes, "_CHUNK", chunk)
        found = adapted.encode(TEXTS, task=tasks, precision=precision)
        cut = adapted.truncated
        counted = 0
        for task in set(tasks):
            places = [i for i, asked in enumerate(tasks) if asked == task]
            alone = adapted.encode([TEXTS[i] for i in places], task=task, precision=precision)
            assert np.array_equal(found[places], alone)
            counted += adapted.truncated
        assert cut == counted > 0
    assert adapted.encode([], task=[]).shape == (0, WIDTH)
    assert np.array_equal(adapted.encode("a", task=["clustering"]), adapted.encode("a", task="clustering"))


def test_a_list_of_tasks_has_one_for_each_text_and_errors_name_the_text(adapted: Encoder) -> None:
    with pytest.raises(ConfigError, match="a list of tasks has one for each text: got 2 for 3 texts"):
        adapted.encode(["a", "b", "c"], task=["retrieval", "clustering"])
    with pytest.raises(ModelError, match="text 2 is not valid Unicode"):
        adapted.encode(["a", "b", "\ud800"], task=["clustering", "retrieval", "clustering"])


def test_what_came_before_never_changes_a_vector(adapted_folder: Path) -> None:
    first = load(adapted_folder, device="cpu", precision="fp32", hold=1)
    expected = {task: first.encode(TEXTS, task=task) for task in TASKS}
    for task in ("retrieval", "clustering", "retrieval", "classification", "retrieval"):
        assert np.array_equal(first.encode(TEXTS, task=task), expected[task])
    assert np.array_equal(
        first.base.encode(TEXTS), load(adapted_folder, device="cpu", precision="fp32").base.encode(TEXTS)
    )


def test_merging_works_inside_inference_mode_and_its_vectors_are_the_same(adapted: Encoder, adapted_folder) -> None:
    with torch.inference_mode():
        inside = adapted.encode(TEXTS, task="retrieval")
    assert np.array_equal(adapted.encode(TEXTS, task="retrieval"), inside)
    fresh = load(adapted_folder, device="cpu", precision="fp32")
    assert np.array_equal(fresh.encode(TEXTS, task="retrieval"), inside)


def test_adapters_in_memory_are_as_those_of_a_folder(adapted: Encoder, eurobert: Path) -> None:
    built = backbones.build(student(model=str(eurobert)), eurobert, seed=1)
    made = Encoder(
        StudentModel(built.model, pooling="last"),
        built.tokenizer,
        spec_of(student(model=str(eurobert)), tasks=["retrieval"]),
        device=torch.device("cpu"),
        precision="fp32",
        adapters={"clustering": adapters_of(built.model)["clustering"]},
    )
    assert made.tasks == ["clustering"]
    np.testing.assert_allclose(
        made.encode(TEXTS, task="clustering"), adapted.encode(TEXTS, task="clustering"), atol=1e-6, rtol=0
    )
    np.testing.assert_allclose(made.base.encode(TEXTS), adapted.base.encode(TEXTS), atol=1e-6, rtol=0)


def test_an_encoder_without_adapters_is_its_own_base(shared: Encoder) -> None:
    assert shared.base is shared
    assert shared.tasks == []


def test_a_published_folder_is_loaded_and_its_prompts_are_used(adapted_folder: Path, tmp_path: Path) -> None:
    from limbeck.export import export

    ours = load(adapted_folder, device="cpu", precision="fp32")
    published = load(export(adapted_folder, tmp_path / "published", format="jina-v5"), device="cpu", precision="fp32")
    assert published.tasks == list(TASKS)
    for task in TASKS:
        found = published.encode(TEXTS, task=task)
        np.testing.assert_allclose(found, ours.encode(TEXTS, task=task), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="so `task` is needed"):
        published.encode(["a"])
    before = published.encode(["a"], task="retrieval", role="query")
    edited(tmp_path / "published", "config_sentence_transformers.json", "Query: ", "Frage: ")
    other = load(tmp_path / "published", device="cpu", precision="fp32")
    assert np.abs(other.encode(["a"], task="retrieval", role="query") - before).max() > 1e-3


# --------------------------------------------------------------------------------------------- auto


def test_auto_takes_the_adapter_that_suits_the_texts_and_gives_the_same_vectors_again(adapted: Encoder) -> None:
    assert adapted.route(SHORT[::3]) == {"retrieval": 1.0}
    assert adapted.route(LONG[::3]) == {"clustering": 1.0}
    both = adapted.route(SHORT[::2] + LONG[::2])
    assert both["retrieval"] == pytest.approx(0.5, abs=0.1) and sum(both.values()) == pytest.approx(1)
    texts = LONG[1::7]
    found = adapted.encode(texts, task="auto")
    assert np.array_equal(found, adapted.encode(texts, task="clustering"))
    assert np.array_equal(found, adapted.encode(texts, task="auto"))
    mixed = SHORT[:4] + LONG[:4]
    assert np.array_equal(adapted.encode(mixed, task="auto"), adapted.encode(mixed, task=adapted.route(mixed)))
    assert adapted.encode([], task="auto", dim=8).shape == (0, 8)


def test_auto_for_queries_is_retrieval(adapted: Encoder) -> None:
    found = adapted.encode(LONG[:3], task="auto", role="query")
    assert np.array_equal(found, adapted.encode(LONG[:3], task="retrieval", role="query"))


def test_auto_reads_256_texts_of_a_call_evenly_spaced(adapted: Encoder, monkeypatch) -> None:
    seen: list[list[str]] = []

    def counting(texts: list[str]) -> np.ndarray:
        seen.append(texts)
        return np.zeros((len(texts), WIDTH), np.float32)

    monkeypatch.setattr(adapted.base, "encode", counting)
    adapted.route([str(i) for i in range(1000)])
    assert len(seen[0]) == 256 and (seen[0][0], seen[0][-1]) == ("0", "999")
    steps = np.diff([int(text) for text in seen[0]])
    assert set(steps) <= {3, 4}
    assert adapted.route(["a", "b"]) and seen[1] == ["a", "b"]


def test_auto_in_a_list_is_routed_by_the_texts_that_ask_for_it(adapted: Encoder) -> None:
    found = adapted.encode([SHORT[0], LONG[0], LONG[9]], task=["retrieval", "auto", "auto"])
    assert np.array_equal(found[1:], adapted.encode([LONG[0], LONG[9]], task="auto"))
    assert np.array_equal(found[:1], adapted.encode([SHORT[0]], task="retrieval"))


def test_auto_without_a_router_is_an_error_that_says_so(adapted_folder: Path, shared: Encoder, tmp_path: Path) -> None:
    shutil.copytree(adapted_folder, tmp_path / "copy")
    (tmp_path / "copy" / "router.safetensors").unlink()
    encoder = load(tmp_path / "copy", device="cpu")
    for texts, role in ((["a"], "document"), ([], "document"), (["a"], "query")):
        with pytest.raises(
            ConfigError, match='tiny has no router, so task="auto" cannot be had; known are retrieval, '
        ):
            encoder.encode(texts, task="auto", role=role)
    with pytest.raises(ConfigError, match="unknown task 'auto'; known are none: this bundle has no adapters"):
        shared.encode(["a"], task="auto")


def test_a_router_of_other_tasks_or_another_width_is_refused(adapted_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(adapted_folder, tmp_path / "copy")
    for tasks, width in ((("retrieval", "translation"), WIDTH), (("retrieval", "clustering"), 8)):
        Router(tasks, torch.ones(2, width), torch.ones(2)).save(tmp_path / "copy" / "router.safetensors")
        with pytest.raises(
            ModelError, match=f"the router knows retrieval, .* of {width} dims, the model has retrieval"
        ):
            load(tmp_path / "copy", device="cpu")


# ------------------------------------------------------------------------------------- fingerprint


def edited(bundle: Path, name: str, old: str, new: str) -> Path:
    file = bundle / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return bundle


def test_the_fingerprint_stays_when_nothing_that_decides_vectors_changes(bundle: Path, tmp_path: Path) -> None:
    before = load(bundle, device="cpu").fingerprint
    shutil.copytree(bundle, tmp_path / "copy")
    edited(tmp_path / "copy", "limbeck.json", '"name": "tiny"', '"name": "renamed"')
    (tmp_path / "copy" / "README.md").write_text("another card")
    (tmp_path / "copy" / "projection.safetensors").unlink()
    assert load(tmp_path / "copy", device="cpu", precision="bf16").fingerprint == before
    assert len(before) == 16


def test_the_fingerprint_changes_with_weights_prefixes_length_and_tokenizer(bundle: Path, tmp_path: Path) -> None:
    def changed(name: str, change) -> str:
        folder = tmp_path / name
        shutil.copytree(bundle, folder)
        change(folder)
        return load(folder, device="cpu").fingerprint

    def weights(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(str(folder / "model.safetensors"))
        next(t for t in tensors.values() if t.numel() > 1).view(-1)[0] += 1e-3
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})

    found = {
        load(bundle, device="cpu").fingerprint,
        changed("weights", weights),
        changed("prompts", lambda f: edited(f, "limbeck.json", "Query: ", "query: ")),
        changed("length", lambda f: edited(f, "limbeck.json", '"max_tokens": 32', '"max_tokens": 31')),
        changed("pooling", lambda f: edited(f, "limbeck.json", '"last"', '"mean"')),
        changed("theta", lambda f: edited(f, "config.json", "10000.0", "20000.0")),
        changed("tokens", lambda f: edited(f, "tokenizer.json", '"lowercase":true', '"lowercase":false'))
        if '"lowercase":true' in (bundle / "tokenizer.json").read_text()
        else changed("tokens", lambda f: edited(f, "tokenizer.json", '"lowercase": true', '"lowercase": false')),
    }
    assert len(found) == 7


def test_a_model_in_memory_has_a_fingerprint_of_its_weights_config_and_tokenizer(bert: Path) -> None:
    def made(seed: int = 1, **changes) -> Encoder:
        section = student(**({"init": "pruned", "pruned": {"layers": [0]}} | changes))
        built = backbones.build(section, bert, seed=seed)
        model = StudentModel(built.model, pooling=section.pooling)
        return Encoder(model, built.tokenizer, spec_of(section), device=torch.device("cpu"))

    assert made().fingerprint == made().fingerprint
    drawn = {"init": "fresh", "fresh": FRESH, "dims": [24]}
    others = [made(), made(pruned={"layers": [1]}), made(rope={"train_theta": 5.0}), made(**drawn), made(2, **drawn)]
    assert len({e.fingerprint for e in others}) == 5


def test_fingerprints_tell_tasks_blends_and_the_base_apart(adapted: Encoder) -> None:
    tasks: list[Any] = [*TASKS, {"retrieval": 0.7, "clustering": 0.3}, {"retrieval": 0.6, "clustering": 0.4}]
    found = [adapted.fingerprint, adapted.base.fingerprint, *map(adapted.fingerprint_of, tasks)]
    assert len(set(found)) == len(found) and {len(f) for f in found} == {16}
    assert adapted.fingerprint_of({"clustering": 2}) == adapted.fingerprint_of("clustering")
    assert adapted.fingerprint_of("auto") == adapted.fingerprint
    assert adapted.base.fingerprint_of(None) == adapted.base.fingerprint
    with pytest.raises(ConfigError, match="`task` is needed"):
        adapted.fingerprint_of(None)


def test_a_fingerprint_changes_with_the_adapter_it_is_of_and_with_no_other(adapted: Encoder) -> None:
    backbone = adapted.model.backbone

    def made(**changed: int) -> Encoder:
        adapters = adapters_of(backbone) | {task: drawn(backbone, seed) for task, seed in changed.items()}
        return Encoder(
            adapted.model,
            adapted.tokenizer,
            adapted.spec,
            folder=adapted.folder,
            adapters=adapters,
            router=adapted.router,
        )

    same, other = made(), made(clustering=9)
    assert same.fingerprint == adapted.fingerprint != other.fingerprint
    assert other.fingerprint_of("retrieval") == adapted.fingerprint_of("retrieval")
    assert other.fingerprint_of("clustering") != adapted.fingerprint_of("clustering")
    assert other.base.fingerprint == adapted.base.fingerprint
    without = Encoder(
        adapted.model, adapted.tokenizer, adapted.spec, folder=adapted.folder, adapters=adapters_of(backbone)
    )
    assert without.fingerprint != adapted.fingerprint


# ------------------------------------------------------------------------------------------ loading


def test_a_folder_that_is_no_bundle_is_an_error_that_says_what_is_missing(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{bert} is not a limbeck bundle: it has no limbeck.json"):
        load(bert)
    with pytest.raises(ModelError, match="is neither a folder with limbeck.json nor a hub id"):
        load(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is neither a folder"):
        load(tmp_path / "file")


@pytest.mark.parametrize("name", ["no-one/no-such-model", "bad name/with spaces", "./relative"])
def test_a_hub_id_that_cannot_be_had_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ModelError, match=f"there is no folder {name}, and the hub did not give it"):
        load(name)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_bundle_without_one_of_its_files_is_an_error_that_names_the_folder(bundle: Path, missing: str) -> None:
    (bundle / missing).unlink()
    with pytest.raises(ModelError, match=str(bundle)):
        load(bundle, device="cpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_bundle_with_a_torn_file_is_an_error_that_names_the_folder(bundle: Path, name: str, share: float) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=str(bundle)):
        load(bundle, device="cpu")


def test_pickled_weights_are_never_read(bundle: Path) -> None:
    model = load(bundle, device="cpu").model.backbone
    torch.save(model.state_dict(), bundle / "pytorch_model.bin")
    (bundle / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"cannot load {bundle}"):
        load(bundle, device="cpu")


def test_code_that_comes_with_a_model_is_not_run_unless_the_user_says_so(bundle: Path) -> None:
    (bundle / "evil.py").write_text("open('ran', 'w'); raise SystemExit('the code ran')\n")
    edited(bundle, "config.json", '"model_type": "jina_embeddings_v3"', '"model_type": "evil"')
    edited(bundle, "config.json", "{", '{"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"},')
    with pytest.raises(ModelError, match=f"cannot load {bundle}"):
        load(bundle, device="cpu")


def test_weights_of_another_shape_than_the_config_are_refused(make_bundle, bert: Path, bundle: Path) -> None:
    wide = make_bundle(student(init="pruned", pruned={"layers": [0, 2, 3]}), bert, name="three")
    shutil.copy(wide / "config.json", bundle / "config.json")
    with pytest.raises(ModelError, match="its config and its weights do not belong together"):
        load(bundle, device="cpu")


def test_a_manifest_of_another_width_than_the_weights_is_refused(bundle: Path) -> None:
    file = bundle / "limbeck.json"
    file.write_text(file.read_text().replace("    32\n", "    64\n"))
    with pytest.raises(ModelError, match="says vectors of 64 dims, the weights beside it give 32"):
        load(bundle, device="cpu")


def test_a_state_of_the_last_token_is_what_the_student_returns() -> None:
    class Backbone(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            states = input_ids[..., None].bfloat16().repeat(1, 1, 3)
            return type("Output", (), {"last_hidden_state": states})

    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = StudentModel(Backbone(), pooling="last")(ids, mask)
    assert found.dtype == torch.float32
    assert found.tolist() == [[7.0] * 3, [9.0] * 3]
