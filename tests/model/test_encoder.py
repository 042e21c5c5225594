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
from tiny_models import FRESH, WIDTH, spec_of, student
from torch import nn

import limbeck
from limbeck import compress
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.model import backbone as backbones
from limbeck.model import encoder as encoders
from limbeck.model.encoder import Encoder, load
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
    monkeypatch.setattr(encoders, "_CHUNK", 4)
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
