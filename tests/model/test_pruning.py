"""Layers that are chosen are those that a search with whole models would choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CORPUS, LAYERS, spec_of, student

from limbeck.config import Student
from limbeck.errors import ConfigError, DataError
from limbeck.model.backbone import build
from limbeck.model.encoder import Encoder
from limbeck.model.pruning import Kept, choose_layers
from limbeck.model.student import StudentModel

TEXTS = [
    *dict.fromkeys(CORPUS),
    *(f"{a} {b}" for a in ("join", "split", "a fox") for b in ("two tables", "a string", "äöü")),
]
READ = [f"Document: {text}" for text in TEXTS]  # as the encoder has the model read them
SOURCES = {"bert": {}, "absolute": {"rope": False}, "qwen3": {}, "eurobert": {}, "modernbert": {}}


def pruned(layers: int | list[int], pooling: str = "mean", **how: Any) -> Student:
    return student(init="pruned", pruned={"layers": layers} | how, pooling=pooling)


def folder_of(source: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("bert" if source == "absolute" else source)


def agreement(kept: list[int], folder: Path, pooling: str, how: dict[str, Any]) -> float:
    """Of a student with these layers, from its vectors."""

    def cosines(layers: list[int]) -> np.ndarray:
        section = pruned(layers, pooling, **how)
        built = build(section, folder, seed=0)
        model = StudentModel(built.model, pooling=pooling)
        vectors = Encoder(model, built.tokenizer, spec_of(section), precision="fp32").encode(TEXTS)
        return (vectors @ vectors.T)[np.triu_indices(len(TEXTS), 1)]

    return float(np.corrcoef(cosines(list(range(LAYERS))), cosines(kept))[0, 1])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("source", SOURCES)
def test_each_layer_that_goes_is_the_one_that_is_missed_least(
    source: str, pooling: str, request: pytest.FixtureRequest
) -> None:
    folder, how = folder_of(source, request), SOURCES[source]
    rounds: list[Kept] = []
    found = choose_layers(
        pruned(1, pooling, **how), str(folder), READ, seed=0, precision="fp32", progress=rounds.append
    )
    assert rounds[-1] == found and len(found.layers) == 1
    before = list(range(LAYERS))
    for kept in rounds:
        left = [[i for i in before if i != gone] for gone in before]
        if source == "modernbert":  # its first layer is like no other
            left = [layers for layers in left if layers[0] == 0]
        scores = {tuple(layers): agreement(layers, folder, pooling, how) for layers in left}
        assert tuple(kept.layers) == max(scores, key=lambda layers: scores[layers])
        assert kept.agreement == pytest.approx(scores[tuple(kept.layers)], abs=1e-4)
        before = kept.layers


def test_an_average_in_the_last_layer_does_not_count(bert: Path) -> None:
    averaged = choose_layers(pruned(2, "last", pool_attention=True), str(bert), TEXTS, seed=0, precision="fp32")
    assert averaged == choose_layers(pruned(2, "mean"), str(bert), TEXTS, seed=0, precision="fp32")


def test_layers_of_another_model_than_the_teacher_are_told_by_that_model(bert: Path, qwen3: Path) -> None:
    own = pruned(3, source=str(qwen3))
    assert choose_layers(own, None, TEXTS, seed=0, precision="fp32") == choose_layers(
        pruned(3), str(qwen3), TEXTS, seed=0, precision="fp32"
    )


def test_what_cannot_be_chosen_is_refused(bert: Path, modernbert: Path) -> None:
    with pytest.raises(ConfigError, match="student.pruned.layers keeps 4 of 4 layers: name fewer"):
        choose_layers(pruned(LAYERS), str(bert), TEXTS, seed=0)
    with pytest.raises(DataError, match="at least three different texts, got 2"):
        choose_layers(pruned(2), str(bert), ["a", "b", "a"], seed=0)
    with pytest.raises(ConfigError, match="student.pruned.layers: 2 does not say which layers"):
        build(pruned(2), bert, seed=0)
