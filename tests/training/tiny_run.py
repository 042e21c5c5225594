"""A teacher, texts and a recipe small enough that a whole run takes a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from killable import Zygote
from tiny_texts import TEACHER_DIM, WORDS, write_graded, write_labelled, write_pairs

__all__ = [
    "adapted",
    "body",
    "extended",
    "graded",
    "labelled",
    "pairs",
    "teacher_folder",
    "write_recipe",
    "zygote",
]


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with mean pooling, as sentence-transformers saves one; its vectors have TEACHER_DIM dims."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    raw.train_from_iterator(
        [" ".join(WORDS), "query: document: . , ( ) 0 1 2 3 4 5 6 7 8 9"],
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=special),
    )
    ends = [("[CLS]", raw.token_to_id("[CLS]")), ("[SEP]", raw.token_to_id("[SEP]"))]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        model_max_length=64,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEACHER_DIM,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.2,  # wide enough that texts differ
    )
    plain = tmp_path_factory.mktemp("bert")
    BertModel(config).save_pretrained(plain)
    torch.random.set_rng_state(state)
    tokenizer.save_pretrained(plain)
    words = Transformer(str(plain), max_seq_length=64)
    folder = tmp_path_factory.mktemp("teacher")
    SentenceTransformer(modules=[words, Pooling(TEACHER_DIM, pooling_mode="mean"), Normalize()]).save(str(folder))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pairs."""
    return write_pairs(tmp_path_factory.mktemp("texts") / "pairs.jsonl", 160)


@pytest.fixture
def body(teacher_folder: Path, pairs: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe as a dict, to be changed and given to `write_recipe`; all that it writes is under `tmp_path`."""
    return {
        "name": "tiny",
        "out": str(tmp_path / "run"),
        "threads": 1,  # bit for bit is promised for the same number of threads
        "data": {
            "sources": [
                {"type": "file", "name": "pairs", "path": str(pairs), "columns": {"query": "q", "document": "d"}}
            ],
            "heldout_fraction": 0.2,
            "near_duplicate_threshold": None,
        },
        "teacher": {
            "model": str(teacher_folder),
            "dim": TEACHER_DIM,
            "precision": "fp32",
            "store": str(tmp_path / "store"),
        },
        "student": {
            "init": "pruned",
            "pruned": {"layers": [0, 2], "pool_attention": True},
            "dims": [8, TEACHER_DIM],
            "max_tokens": 48,
            "rope": {"train_theta": 1000, "inference_theta": 2000},
        },
        "distill": {
            "steps": 10,
            "tokens_per_step": 300,
            "tokens_per_micro_batch": 160,
            "optimizer": {"learning_rate": 0.003, "warmup_steps": 2},
            "precision": "fp32",
            "checkpoint_every": 3,
            "log_every": 2,
        },
        "evaluate": {"queries": 20, "speed_texts": 4},
    }


@pytest.fixture(scope="session")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pairs with a score."""
    return write_graded(tmp_path_factory.mktemp("texts") / "graded.jsonl", 60)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 texts with one of four labels."""
    return write_labelled(tmp_path_factory.mktemp("texts") / "labelled.jsonl", 120)


@pytest.fixture
def adapted(body: dict[str, Any], graded: Path, labelled: Path) -> dict[str, Any]:
    """`body` with four adapters, each of a few steps."""
    body["data"]["sources"] += [
        {
            "type": "file",
            "name": "graded",
            "path": str(graded),
            "columns": {"query": "a", "document": "b", "score": "score"},
            "score_range": [0, 1],
        },
        {"type": "file", "name": "labelled", "path": str(labelled), "columns": {"text": "text", "labels": "label"}},
    ]
    body["distill"]["sources"] = ["pairs"]
    common = {
        "steps": 6,
        "batch_size": 8,
        "tokens_per_micro_batch": 100,
        "lora": {"rank": 2, "dropout": 0.1},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 1},
        "precision": "fp32",
        "checkpoint_every": 2,
        "log_every": 2,
    }
    body["adapters"] = {
        "retrieval": common
        | {"sources": ["pairs"], "mining": {"negatives": 2, "ranks": [1, 20], "margin": 0.0}, "tokens_in_memory": 150},
        "text-matching": common | {"sources": [{"name": "graded", "batch_size": 12}, "pairs"]},
        "clustering": common | {"sources": ["pairs", "labelled"]},
        "classification": common | {"sources": ["labelled"]},
    }
    return body


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a recipe file."""

    def write(body: dict[str, Any]) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    return write


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Runs `limbeck` in processes that can be killed."""
    with Zygote() as started:
        yield started


@pytest.fixture
def extended(body: dict[str, Any]) -> dict[str, Any]:
    """`body` with a long-context phase on documents that are hidden among others."""
    body["data"]["sources"].append({"type": "distractors", "name": "hidden", "of": "pairs", "chars": [300, 900]})
    body["teacher"]["long_texts"] = "chunks"
    body["student"]["max_tokens"] = 256
    body["student"]["rope"] = {"train_theta": 1000, "inference_theta": 4000}
    body["distill"] |= {"sources": ["pairs"], "max_tokens": 48}
    body["extend"] = {
        "sources": ["hidden"],
        "steps": 6,
        "tokens_per_step": 600,
        "tokens_per_micro_batch": 300,
        "theta": 1500,
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 1},
        "precision": "fp32",
        "checkpoint_every": 2,
        "log_every": 2,
    }
    return body
