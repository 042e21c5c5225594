"""The theta asked for is the theta that the model computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FRESH, student

from limbeck.errors import ModelError
from limbeck.model import backbone as backbones
from limbeck.model import rope
from limbeck.model.encoder import load
from limbeck.model.pretrained import read_model

KINDS = ["qwen3", "eurobert", "modernbert"]


def frequencies(model: Any) -> np.ndarray:
    """The inv_freq buffer of full attention."""
    buffers = {name.split(".")[-1]: b for name, b in model.named_buffers() if name.endswith("inv_freq")}
    return buffers.get("full_attention_inv_freq", buffers.get("inv_freq")).double().numpy()


def expected(theta: float, head_dim: int = 16) -> np.ndarray:
    return np.array([1 / theta ** (2 * i / head_dim) for i in range(head_dim // 2)])


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
    model.config.rope_parameters = rope.with_theta(model.config, 123.0).rope_parameters
    with pytest.raises(ModelError, match=r"rope theta 123 did not take effect: the model computes with 1(0000|60000)$"):
        rope.verify(model, 123.0)


def test_with_theta_leaves_the_config_that_it_was_given(folder: Path) -> None:
    config = read_model(folder).config
    before = config.to_dict()
    rope.with_theta(config, 123.0)
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


def test_a_scaled_kind_of_positions_is_left_unchecked(eurobert: Path) -> None:
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    section = student(model=str(eurobert), config={"rope_parameters": parameters}, rope={"train_theta": 600.0})
    built = backbones.build(section, "unused", seed=0)
    np.testing.assert_allclose(frequencies(built.model), expected(600) / 4, rtol=1e-5)


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
