"""Tiny models with weights large enough that every token matters, made here: no network, no downloads."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from limbeck.config import Student
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec

CORPUS = [
    "Query: how do I join two tables on a key column?",
    "Document: Return a new array of given shape and type, without initializing entries.",
    "The quick brown fox jumps over the lazy dog; ein Satz mit Umlauten: äöü.",
    "Split the string at the first occurrence of sep, and return a 3-tuple.",
] * 5
LAYERS = 4
WIDTH = 32
SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}


@cache  # training it is not deterministic: one vocabulary for all
def _wordpiece_vocab() -> dict[str, int]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    return backend.get_vocab()


@cache
def _byte_level_model() -> dict[str, Any]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    return json.loads(backend.to_str())["model"]


def wordpiece() -> Any:
    """A BERT tokenizer: [CLS] text [SEP]."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab=dict(_wordpiece_vocab()), do_lower_case=True)


def byte_level() -> Any:
    """A Qwen tokenizer as its base models have it: bytes, and nothing after the text; padding is the EOS token."""
    from transformers import Qwen2TokenizerFast

    model, end = _byte_level_model(), "<|endoftext|>"
    merges = [tuple(m) for m in model["merges"]]
    return Qwen2TokenizerFast(
        vocab=dict(model["vocab"]), merges=merges, eos_token=end, pad_token=end, unk_token=end, bos_token=None
    )


def save_model(folder: Path, kind: str, tokenizer: Any, **shape: Any) -> Path:
    import transformers

    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": None}
    fields |= {"bos_token_id": None, "cls_token_id": None, "sep_token_id": None} if kind == "ModernBert" else {}
    config = getattr(transformers, f"{kind}Config")(**(SHAPE | fields | shape))
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FRESH = {"hidden_size": 24, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "intermediate_size": 32}


def student(**body: Any) -> Student:
    """A student section; `dims` ends with the width of the tiny models unless given."""
    return Student.model_validate({"dims": [8, 16, WIDTH], "max_tokens": 32} | body)


def backbone_of(kind: str, folders: dict[str, Path]) -> Any:
    """A student's backbone in evaluation mode, of one of KINDS; folders: of the tiny models, by name."""
    section, teacher = {
        "causal Qwen3": (student(init="fresh", fresh=FRESH, dims=[24]), "qwen3"),
        "bidirectional Qwen3": (student(init="fresh", fresh=FRESH | {"causal": False}, dims=[24]), "qwen3"),
        "EuroBERT": (student(model=str(folders["eurobert"])), "eurobert"),
        "ModernBERT": (student(model=str(folders["modernbert"])), "modernbert"),
        "rotary BERT": (student(init="pruned", pruned={"layers": [0, 2]}), "bert"),
        "BERT": (student(init="pruned", pruned={"layers": [0, 2], "rope": False}), "bert"),
    }[kind]
    return backbones.build(section, folders[teacher], seed=1).model.eval()


KINDS = ["causal Qwen3", "bidirectional Qwen3", "EuroBERT", "ModernBERT", "rotary BERT"]


def spec_of(section: Student, **spec: Any) -> BundleSpec:
    return BundleSpec(
        name="tiny",
        pooling=section.pooling,
        dims=section.dims,
        max_tokens=section.max_tokens,
        train_theta=section.rope.train_theta,
        inference_theta=section.rope.inference_theta,
        train_scaling=section.rope.train_scaling,
        inference_scaling=section.rope.inference_scaling,
        **spec,
    )
