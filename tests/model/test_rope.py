"""The theta asked for is the theta that the model computes with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FRESH, save_model, student, wordpiece

from limbeck.config import Scaling
from limbeck.errors import ConfigError, ModelError
from limbeck.model import backbone as backbones
from limbeck.model import rope
from limbeck.model.loading import load
from limbeck.model.pretrained import read_model

KINDS = ["qwen3", "eurobert", "modernbert", "llama"]


def frequencies(model: Any) -> np.ndarray:
    """The inv_freq buffer of full attention."""
    buffers = {name.split(".")[-1]: b for name, b in model.named_buffers() if name.endswith("inv_freq")}
    return buffers.get("full_attention_inv_freq", buffers.get("inv_freq")).double().numpy()


def expected(theta: float, head_dim: int = 16) -> np.ndarray:
    return np.array([1 / theta ** (2 * i / head_dim) for i in range(head_dim // 2)])


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "Llama", wordpiece(), num_key_value_heads=2)


@pytest.fixture(params=KINDS)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("theta", [500.0, 1_000_000.0])
def test_the_training_theta_of_a_pretrained_backbone_is_in_its_frequencies(folder: Path, theta: float) -> None:
    section = student(model=str(folder), rope={"train_theta": theta})
    built = backbones.build(section, "unused", seed=0)
    np.testing.assert_allclose(frequencies(built.model), expected(theta), rtol=1e-5)
    assert rope.theta_of(built.config) == theta


@pytest.mark.parametrize("theta", [500.0, 1_000_000.0])
def test_the_training_theta_of_a_bert_made_rotary_is_in_its_frequencies(bert: Path, theta: float) -> None:
    section = student(init="pruned", pruned={"layers": [0, 1]}, rope={"train_theta": theta})
    np.testing.assert_allclose(frequencies(backbones.build(section, bert, seed=0).model), expected(theta), rtol=1e-5)


def test_the_training_theta_of_a_fresh_decoder_is_in_its_frequencies(bert: Path) -> None:
    section = student(init="fresh", fresh=FRESH, dims=[24], rope={"train_theta": 777.0})
    np.testing.assert_allclose(frequencies(backbones.build(section, bert, seed=0).model), expected(777), rtol=1e-5)


def test_frequencies_of_local_attention_stay_as_they_are(modernbert: Path) -> None:
    built = backbones.build(student(model=str(modernbert), rope={"train_theta": 500.0}), "unused", seed=0)
    local = dict(built.model.named_buffers())["rotary_emb.sliding_attention_inv_freq"]
    np.testing.assert_allclose(local.double().numpy(), expected(10_000), rtol=1e-5)


def test_without_a_theta_the_backbone_keeps_its_own(modernbert: Path) -> None:
    built = backbones.build(student(model=str(modernbert)), "unused", seed=0)
    np.testing.assert_allclose(frequencies(built.model), expected(160_000), rtol=1e-5)


def test_a_theta_edited_after_loading_is_seen_to_have_no_effect(folder: Path) -> None:
    model = read_model(folder)
    model.config.rope_parameters = rope.with_rope(model.config, 123.0).rope_parameters
    with pytest.raises(ModelError, match=r"rope theta 123 did not take effect: the model computes with 1(0000|60000)$"):
        rope.verify(model, 123.0)


def test_with_theta_leaves_the_config_that_it_was_given(folder: Path) -> None:
    config = read_model(folder).config
    before = config.to_dict()
    rope.with_rope(config, 123.0)
    assert config.to_dict() == before


def test_a_theta_for_a_model_without_rotary_positions_is_an_error(bert: Path) -> None:
    with pytest.raises(ModelError, match="bert has no rotary position embedding: leave student.rope out"):
        backbones.build(student(model=str(bert), rope={"train_theta": 500.0}), "unused", seed=0)
    with pytest.raises(ModelError, match="has no inv_freq"):
        rope.verify(read_model(bert), 500.0)


PAIRS = {
    "qwen3": {"init": "pretrained"},
    "eurobert": {"init": "pretrained"},
    "modernbert": {"init": "pretrained"},
    "bert": {"init": "pruned", "pruned": {"layers": [0, 2]}},
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_bundle_holds_the_inference_theta_and_every_loader_computes_with_it(name, request, make_bundle) -> None:
    source = request.getfixturevalue(name)
    body = PAIRS[name] | ({"model": str(source)} if PAIRS[name]["init"] == "pretrained" else {})
    section = student(**body, rope={"train_theta": 500.0, "inference_theta": 90_000.0})
    folder = make_bundle(section, source)
    encoder = load(folder, device="cpu")
    np.testing.assert_allclose(frequencies(encoder.model.backbone), expected(90_000), rtol=1e-5)
    assert (encoder.spec.train_theta, encoder.spec.inference_theta) == (500.0, 90_000.0)

    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")[0].model
    np.testing.assert_allclose(frequencies(theirs), expected(90_000), rtol=1e-5)


def test_saving_a_bundle_leaves_the_training_theta_in_the_model(eurobert: Path, make_bundle, monkeypatch) -> None:
    kept: list[Any] = []
    build = backbones.build
    monkeypatch.setattr(backbones, "build", lambda *a, **k: kept.append(build(*a, **k)) or kept[0])
    section = student(model=str(eurobert), rope={"train_theta": 500.0, "inference_theta": 90_000.0})
    make_bundle(section, eurobert)
    assert rope.theta_of(kept[0].model.config) == 500.0
    rope.verify(kept[0].model, 500.0)


def test_a_bundle_without_an_inference_theta_keeps_the_training_theta(eurobert: Path, make_bundle) -> None:
    folder = make_bundle(student(model=str(eurobert), rope={"train_theta": 500.0}), eurobert)
    np.testing.assert_allclose(frequencies(load(folder, device="cpu").model.backbone), expected(500), rtol=1e-5)


def test_a_bundle_whose_config_was_edited_to_another_theta_is_refused(eurobert: Path, make_bundle) -> None:
    folder = make_bundle(student(model=str(eurobert), rope={"inference_theta": 90_000.0}), eurobert)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("90000.0", "80000.0"))
    with pytest.raises(ModelError, match="rope theta 90000 did not take effect: the model computes with 80000"):
        load(folder, device="cpu")


SCALINGS = {
    "linear": {"type": "linear", "factor": 4.0},
    "dynamic": {"type": "dynamic", "factor": 4.0, "original_max_tokens": 32},
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_tokens": 256},
}


def yarn_by_hand(theta: float, head_dim: int, factor: float, known: int) -> np.ndarray:
    """Frequency by frequency, as arXiv 2309.00071 has it: which part of a turn fits in the known length decides."""

    def place(turns: float) -> float:
        return head_dim * np.log(known / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low, high = max(np.floor(place(32)), 0), min(np.ceil(place(1)), head_dim - 1)
    found = []
    for i, plain in enumerate(expected(theta, head_dim)):
        share = min(max((i - low) / (high - low), 0), 1)
        found.append((1 - share) * plain + share * plain / factor)
    return np.array(found)


def scaled(name: str, theta: float) -> np.ndarray:
    plain = expected(theta)
    return {"linear": plain / 4, "dynamic": plain, "yarn": yarn_by_hand(theta, 16, 4.0, 256)}[name]


@pytest.mark.parametrize("name", SCALINGS)
def test_a_scaling_is_in_the_frequencies_of_every_backbone(name: str, folder: Path) -> None:
    model = read_model(folder)
    rope.set_rope(model, 10_000.0, Scaling(**SCALINGS[name]))
    np.testing.assert_allclose(frequencies(model), scaled(name, 10_000), rtol=1e-5)
    found = rope.scaling_of(model.config)
    assert found is not None and (found.type, found.factor) == (name, 4.0)


def test_yarn_has_low_frequencies_stretched_high_ones_kept_and_a_ramp_between() -> None:
    share = frequencies_of("yarn") / expected(10_000)
    assert share[0] == pytest.approx(1) and share[-1] == pytest.approx(1 / 4)
    assert any(0.26 < s < 0.99 for s in share)


def frequencies_of(name: str) -> np.ndarray:
    return rope.frequencies(10_000, 16, Scaling(**SCALINGS[name])).numpy()


@pytest.mark.parametrize("name", ["linear", "yarn"])
def test_a_student_is_trained_with_the_scaling_of_its_recipe(name: str, folder: Path, bert: Path) -> None:
    asked = {"train_theta": 500.0, "train_scaling": SCALINGS[name]}
    for section, source in (
        (student(model=str(folder), rope=asked), "unused"),
        (student(init="pruned", pruned={"layers": [0, 2]}, rope=asked), bert),
        (student(init="fresh", fresh=FRESH, dims=[24], rope=asked), bert),
    ):
        built = backbones.build(section, source, seed=0)
        wanted = rope.frequencies(500, 2 * len(frequencies(built.model)), Scaling(**SCALINGS[name])).numpy()
        np.testing.assert_allclose(frequencies(built.model), wanted, rtol=1e-5)


def test_only_the_frequencies_of_full_attention_are_stretched(modernbert: Path) -> None:
    model = read_model(modernbert)
    rope.set_rope(model, None, Scaling(**SCALINGS["linear"]))
    local = dict(model.named_buffers())["rotary_emb.sliding_attention_inv_freq"]
    np.testing.assert_allclose(local.double().numpy(), expected(10_000), rtol=1e-5)
    np.testing.assert_allclose(frequencies(model), expected(160_000) / 4, rtol=1e-5)


@pytest.mark.parametrize("name", SCALINGS)
def test_a_scaling_that_is_written_into_the_config_alone_is_seen_to_have_no_effect(name: str, folder: Path) -> None:
    model, scaling = read_model(folder), Scaling(**SCALINGS[name])
    changed = rope.with_rope(model.config, None, scaling)
    model.config.rope_parameters = changed.rope_parameters
    with pytest.raises(ModelError, match=f"{name} scaling by 4 did not take effect: .* of the type default"):
        rope.verify(model, None, scaling)


def test_a_backbone_that_ignores_its_scaling_is_found_out(eurobert: Path) -> None:
    model = read_model(eurobert)
    rope.set_rope(model, None, Scaling(**SCALINGS["linear"]))
    model.rotary_emb.inv_freq = model.rotary_emb.inv_freq * 4
    with pytest.raises(ModelError, match="linear scaling by 4 did not take effect"):
        rope.verify(model, None, Scaling(**SCALINGS["linear"]))


def test_a_scaling_for_a_model_without_rotary_positions_is_an_error(bert: Path) -> None:
    with pytest.raises(ModelError, match="yarn scaling by 4 was asked for, but bert has no rotary"):
        rope.set_rope(read_model(bert), None, Scaling(**SCALINGS["yarn"]))


def test_another_theta_keeps_the_scaling_and_another_scaling_the_theta(eurobert: Path) -> None:
    model = read_model(eurobert)
    rope.set_rope(model, 700.0, Scaling(**SCALINGS["linear"]))
    rope.set_rope(model, 900.0)
    np.testing.assert_allclose(frequencies(model), expected(900) / 4, rtol=1e-5)
    rope.set_rope(model, None, Scaling(type="linear", factor=2))
    np.testing.assert_allclose(frequencies(model), expected(900) / 2, rtol=1e-5)


def test_under_dynamic_scaling_no_text_depends_on_those_before_it(eurobert: Path) -> None:
    """The frequencies of 40 tokens are those for 40, before and after a text of 64; known are 32."""
    model = read_model(eurobert).eval()
    rope.set_rope(model, 10_000.0, Scaling(**SCALINGS["dynamic"]))
    rope.forget_lengths(model)
    ids = torch.randint(5, 50, (1, 64), generator=torch.Generator().manual_seed(0))
    states = []
    for length in (40, 64, 40, 8, 40):
        with torch.no_grad():
            states.append(model(input_ids=ids[:, :length]).last_hidden_state)
        theta = 10_000 * (4 * max(length, 32) / 32 - 3) ** (16 / 14)
        np.testing.assert_allclose(frequencies(model), expected(theta), rtol=1e-4)
    assert torch.equal(states[0], states[2]) and torch.equal(states[0], states[4])


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["eurobert", "bert"])
def test_a_scaled_bundle_gives_the_same_vectors_in_sentence_transformers(name, scaling, request, make_bundle) -> None:
    source = request.getfixturevalue(name)
    body = PAIRS[name] | ({"model": str(source)} if PAIRS[name]["init"] == "pretrained" else {})
    asked = {"train_theta": 500.0, "inference_theta": 700.0, "inference_scaling": SCALINGS[scaling]}
    folder = make_bundle(student(**body, rope=asked, max_tokens=120), source)
    encoder = load(folder, device="cpu", precision="fp32")
    assert encoder.spec.inference_scaling == Scaling(**SCALINGS[scaling])
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    assert theirs.max_seq_length == 120
    for text in ("open the file " * 25, "open a file"):
        np.testing.assert_allclose(encoder.encode(text), theirs.encode(text, prompt_name="document"), atol=1e-5)


def test_theta_and_scaling_can_be_changed_when_a_bundle_is_loaded(eurobert: Path, make_bundle) -> None:
    folder = make_bundle(student(model=str(eurobert), rope={"train_theta": 500.0}), eurobert)
    plain = load(folder, device="cpu")
    other = load(folder, device="cpu", rope_theta=700.0, rope_scaling=SCALINGS["linear"], max_tokens=9)
    np.testing.assert_allclose(frequencies(other.model.backbone), expected(700) / 4, rtol=1e-5)
    assert (other.spec.inference_theta, other.max_tokens) == (700.0, 9)
    assert other.fingerprint != plain.fingerprint == load(folder, device="cpu").fingerprint
    assert other.fingerprint != load(folder, device="cpu", rope_theta=701.0, max_tokens=9).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 0}, "rope_theta must be above 0, got 0"),
        ({"rope_theta": -5.0}, "rope_theta must be above 0, got -5"),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, "rope_scaling.type: .*linear.*dynamic.*yarn"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "rope_scaling.factor: .*greater than or equal to 1"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
    ],
)
def test_a_change_that_cannot_be_is_an_error(eurobert: Path, make_bundle, change, message) -> None:
    folder = make_bundle(student(model=str(eurobert)), eurobert)
    with pytest.raises(ConfigError, match=message):
        load(folder, device="cpu", **change)


def test_a_backbone_with_a_scaling_of_its_own_keeps_it_under_another_theta(eurobert: Path) -> None:
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    section = student(model=str(eurobert), config={"rope_parameters": parameters}, rope={"train_theta": 600.0})
    built = backbones.build(section, "unused", seed=0)
    np.testing.assert_allclose(frequencies(built.model), expected(600) / 4, rtol=1e-5)


FOREIGN = {
    "llama3": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"rope_type": "yarn", "beta_fast": 8.0, "attention_factor": 1.5},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_scaling_that_has_no_name_here_stays_until_another_takes_its_place(name: str, llama: Path) -> None:
    own = {"rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 32} | FOREIGN[name]
    model = backbones.build(
        student(model=str(llama), config={"rope_parameters": own}, rope={"train_theta": 600.0}), "unused", seed=0
    ).model
    config: Any = model.config
    assert config.rope_parameters == own | {"rope_theta": 600.0}
    assert rope.scaling_of(config) is None
    rope.set_rope(model, None, Scaling(type="yarn", factor=4))
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert config.rope_parameters == {"rope_theta": 600.0} | yarn
    np.testing.assert_allclose(frequencies(model), yarn_by_hand(600, 16, 4, 32), rtol=1e-5)


def test_the_known_length_outlives_a_change_of_scaling(eurobert: Path) -> None:
    config = rope.with_rope(read_model(eurobert).config, None, Scaling(**SCALINGS["yarn"]))
    assert config.max_position_embeddings == 4 * 256  # what transformers expects of yarn
    for kind in ("dynamic", "linear", "yarn"):
        config = rope.with_rope(config, None, Scaling(type=kind, factor=2))
    assert rope.scaling_of(config) == Scaling(type="yarn", factor=2, original_max_tokens=256)
    assert config.max_position_embeddings == 2 * 256


def test_rotary_positions_that_are_not_made_from_a_config_are_an_error(eurobert: Path) -> None:
    class Old(torch.nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.register_buffer("inv_freq", torch.ones(dim // 2))

    model = read_model(eurobert)
    model.rotary_emb = Old(16)
    with pytest.raises(ModelError, match="rope theta 9 cannot be set in a EuroBertModel once it is made: Old takes no"):
        rope.set_rope(model, 9.0)
    with pytest.raises(
        ModelError, match="rope theta 9 and linear scaling by 4 did not take effect: EuroBertModel comp"
    ):
        rope.verify(model, 9.0, Scaling(**SCALINGS["linear"]))


@pytest.mark.parametrize("name", SCALINGS)
def test_what_is_set_in_memory_is_saved_and_transformers_computes_with_it(name: str, folder: Path, tmp_path) -> None:
    from transformers import AutoModel

    model = read_model(folder)
    rope.set_rope(model, 700.0, Scaling(**SCALINGS[name]))
    model.save_pretrained(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    rope.verify(theirs, 700.0, Scaling(**SCALINGS[name]))
    ids = torch.randint(5, 50, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, found = (m.eval()(input_ids=ids).last_hidden_state for m in (model, theirs))
        unscaled = read_model(folder).eval()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, unscaled, atol=1e-3)


@pytest.mark.parametrize("known", [16, 21])
def test_under_dynamic_scaling_no_text_depends_on_those_beside_it(known: int, eurobert: Path, make_bundle) -> None:
    scaling = {"type": "dynamic", "factor": 4.0, "original_max_tokens": known}
    folder = make_bundle(student(model=str(eurobert), rope={"inference_scaling": scaling}, max_tokens=100), eurobert)
    model = load(folder, device="cpu", precision="fp32")
    texts = [" ".join(["open the file"] * n) for n in (1, 2, 3, 4, 5, 9)]
    together = model.encode(texts, batch_tokens=4096)
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("source", ["eurobert", "modernbert"])
def test_a_loaded_model_under_dynamic_scaling_forgets_what_it_read_before(source, request, make_bundle) -> None:
    scaling = {"type": "dynamic", "factor": 4.0, "original_max_tokens": 16}
    folder = request.getfixturevalue(source)
    path = make_bundle(student(model=str(folder), rope={"inference_scaling": scaling}, max_tokens=120), folder)
    encoder = load(path, device="cpu", precision="fp32")
    text, long = "open the file " * 6, "open the file " * 25
    alone = encoder.encode(text)
    encoder.encode(long)
    np.testing.assert_array_equal(encoder.encode(text), alone)


def test_a_bundle_whose_config_lost_its_scaling_is_refused(eurobert: Path, make_bundle) -> None:
    folder = make_bundle(
        student(model=str(eurobert), rope={"inference_scaling": {"type": "yarn", "factor": 4}}), eurobert
    )
    body = json.loads((folder / "config.json").read_text())
    body["rope_parameters"] = {"rope_type": "default", "rope_theta": body["rope_parameters"]["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(body))
    with pytest.raises(
        ModelError, match="yarn scaling by 4 did not take effect: EuroBertModel computes with .* default"
    ):
        load(folder, device="cpu")


def test_a_longer_theta_changes_far_positions_more_than_near_ones(eurobert: Path) -> None:
    ids = torch.randint(5, 50, (1, 64), generator=torch.Generator().manual_seed(0))
    states = []
    for theta in (10_000.0, 1_000_000.0):
        model = backbones.build(
            student(model=str(eurobert), rope={"train_theta": theta}), "unused", seed=0
        ).model.eval()
        with torch.no_grad():
            states.append(model(input_ids=ids).last_hidden_state)
    assert not torch.allclose(states[0], states[1], atol=1e-3)
