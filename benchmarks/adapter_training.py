"""Training a LoRA adapter with in-batch negatives: limbeck against sentence-transformers' cached loss.

    python benchmarks/adapter_training.py

Both train the same adapter (rank 32, alpha 32, dropout 0.1, all linear layers) on the same base, the student of a
recipe, by InfoNCE over the same batches of pairs of Python docstrings, in the same precision, with the same threads,
prefixes, cut, temperature and optimizer steps. The peer is `CachedMultipleNegativesRankingLoss` with its default
mini-batches, in its trainer, on a model with `add_adapter`. limbeck runs its `retrieval` adapter with the contrastive
term alone; it runs twice: as it would for this batch, which fits memory, and with gradient caching, as for one that
does not. The ratio of the last line is of the former, the JSON holds both.

Counted are texts (both sides of a pair), from the end of the warm-up steps to the end of the run.

`--true-size` draws weights and texts at random, for models that are not at hand; train_throughput.py has the commands
for a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from _harness import Clock, alternate, conclude, introduce, show
from _true_size import files_of, overrides, pairs
from datasets import Dataset
from peft import LoraConfig, TaskType
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from train_throughput import SOURCE, now

from limbeck import machine
from limbeck.config import AdapterSource, Recipe, RetrievalAdapter, load_recipe
from limbeck.data.sources import read_source
from limbeck.data.tokens import TokenTable
from limbeck.model import backbone as backbones
from limbeck.model import runtime
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.model.prefixes import prefix
from limbeck.model.pretrained import read_model
from limbeck.model.projection import Projection
from limbeck.training import adapt as stage2
from limbeck.training.task_batches import TaskBatches, TaskSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--batch", type=int, default=128, help="pairs of one step")
    parser.add_argument("--steps", type=int, default=4, help="timed optimizer steps of a round")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=SOURCE.max_rows)
    parser.add_argument("--max-tokens", type=int, default=256, help="both sides cut texts here")
    parser.add_argument("--true-size", action="store_true", help="draw weights and texts")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    precision = runtime.precision_of("auto", runtime.device_of())
    introduce(
        "adapter_training",
        f"texts a second of contrastive LoRA training, {args.recipe}, {args.batch} pairs a step, {precision}, "
        f"{args.threads} threads",
        packages=("peft", "datasets"),
    )
    with tempfile.TemporaryDirectory() as folder:
        drawn = overrides(args.recipe, Path(folder) / "tokenizer") if args.true_size else []
        recipe = load_recipe(args.recipe, drawn)
        run(recipe, precision, Path(folder), args)


def run(recipe: Recipe, precision: str, folder: Path, args: argparse.Namespace) -> None:
    if args.true_size:
        queries, documents = pairs(args.pairs, longest=args.max_tokens, spread=True)
    else:
        examples: list[Any] = list(read_source(SOURCE.model_copy(update={"max_rows": args.pairs})))
        queries, documents = [e.query for e in examples], [e.document for e in examples]
    built = backbones.build(recipe.student, files_of(recipe), seed=recipe.seed)
    spec = BundleSpec(
        name="student", pooling=recipe.student.pooling, dims=recipe.student.dims[-1:], max_tokens=args.max_tokens
    )
    save_bundle(folder / "student", backbone=built.model, tokenizer=built.tokenizer, spec=spec, projection=None)
    parts = [(queries, prefix("query")), (documents, prefix("document"))]
    tokens = TokenTable.write(folder / "tokens", parts, built.tokenizer, max_tokens=args.max_tokens)
    each = np.arange(len(queries), dtype=np.int64)
    ids = np.arange(2 * len(queries), dtype=np.int64)
    source = TaskSource("python-docs", 1.0, args.batch, tokens, ids, each, each + len(queries))
    print(f"texts     {len(queries):,} pairs, {tokens.lengths.mean():.1f} tokens a text", flush=True)

    def ours(tokens_in_memory: int | None) -> Callable[[], float]:
        return limbeck_side(recipe, built, source, precision, folder, args, tokens_in_memory)

    found = alternate(
        {
            "limbeck": ours(None),
            "limbeck, recomputed": ours(1),
            "peer": peer_side(recipe, queries, documents, precision, folder, args),
        },
        rounds=args.rounds,
    )
    show("limbeck, recomputed", found["limbeck, recomputed"], "texts/s")
    conclude(
        "adapter_training",
        ours=("limbeck retrieval adapter", found["limbeck"]),
        peer=("CachedMultipleNegativesRankingLoss", found["peer"]),
        unit="texts/s",
        better="more",
        also={
            "ratio_recomputed": statistics.median(
                o / p for o, p in zip(found["limbeck, recomputed"], found["peer"], strict=True)
            )
        },
    )


def settings(precision: str, args: argparse.Namespace, tokens_in_memory: int | None) -> RetrievalAdapter:
    return RetrievalAdapter.model_validate(
        {
            "sources": [AdapterSource(name="python-docs")],
            "steps": args.warmup + args.steps + 1,  # the start of the last step is the end of the one before
            "batch_size": args.batch,
            "tokens_per_micro_batch": 4096,
            "tokens_in_memory": tokens_in_memory,
            "max_tokens": args.max_tokens,
            "nce_weight": 1.0,
            "distill_weight": 0.0,
            "spread_weight": 0.0,
            "negatives": 0,
            "false_negative_margin": None,
            "average": None,
            "precision": precision,
            "compile": "off",
            "checkpoint_every": 1000,
        }
    )


def limbeck_side(
    recipe: Recipe,
    built: backbones.Backbone,
    source: TaskSource,
    precision: str,
    folder: Path,
    args: argparse.Namespace,
    tokens_in_memory: int | None,
) -> Callable[[], float]:
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"dims": recipe.student.dims[-1:]})})
    width = recipe.student.dims[-1]

    def side() -> float:
        clock = Clock()

        class Timed(TaskBatches):
            def next(self) -> Any:
                now()  # waits for the device
                clock.tick()
                return super().next()

        stage2.TaskBatches = Timed  # type: ignore[misc]  # the rest of stage 2 runs as it is
        model = read_model(folder / "student")
        base = backbones.Backbone(model, built.tokenizer, model.config)
        block = settings(precision, args, tokens_in_memory)
        with tempfile.TemporaryDirectory(dir=folder) as out:
            stage2.adapt(
                recipe, "retrieval", block, base, Projection([width], width), [source], no_vectors, Path(out), key="k"
            )
        return 2 * args.batch * args.steps / clock.seconds(args.warmup, args.steps)

    return side


def no_vectors(rows: np.ndarray) -> np.ndarray:
    raise AssertionError("no loss of this benchmark reads the teacher")


def peer_side(
    recipe: Recipe,
    queries: list[str],
    documents: list[str],
    precision: str,
    folder: Path,
    args: argparse.Namespace,
) -> Callable[[], float]:
    block = settings(precision, args, None)
    dataset = Dataset.from_dict({"query": queries, "document": documents})
    use_cpu = runtime.device_of().type == "cpu"

    class Ends(transformers.TrainerCallback):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.clock.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now()
            self.clock.tick()

    def side() -> float:
        clock = Clock()
        model = SentenceTransformer(str(folder / "student"), device="cpu" if use_cpu else None)
        names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"dense"}
        model.add_adapter(
            LoraConfig(
                task_type=TaskType.FEATURE_EXTRACTION,
                r=block.lora.rank,
                lora_alpha=int(block.lora.alpha),
                lora_dropout=block.lora.dropout,
                target_modules=sorted(names),
            )
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(folder / "peer"),
                max_steps=args.warmup + args.steps + 1,
                per_device_train_batch_size=args.batch,
                batch_sampler=BatchSamplers.NO_DUPLICATES,
                learning_rate=block.optimizer.learning_rate,
                max_grad_norm=block.optimizer.clip_norm,
                bf16=precision == "bf16",
                prompts={"query": prefix("query"), "document": prefix("document")},
                use_cpu=use_cpu,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=recipe.seed,
            ),
            train_dataset=dataset,
            loss=CachedMultipleNegativesRankingLoss(model, scale=1 / block.temperature),
            callbacks=[Ends(clock)],
        )
        trainer.train()
        return 2 * args.batch * args.steps / clock.seconds(args.warmup, args.steps)

    return side


if __name__ == "__main__":
    main()
