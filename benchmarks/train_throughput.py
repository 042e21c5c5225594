"""Training on real text: limbeck's stage 1 against sentence-transformers' trainer with its `EmbedDistillLoss`.

    python benchmarks/train_throughput.py

Both train the student of a recipe (by default the demo's: a pruned, rotary MiniLM with a projection on top) on pairs of
Python docstrings, towards the same vectors of the same teacher, in the same precision, with the same threads, prefixes,
cut and clipping. limbeck runs stage 1 as the recipe says. The peer runs as it documents: both columns in one dataset,
vectors in a `label` column, `prompts`, random batches padded to their longest text, its default attention. It runs
twice: with its default batching (8 pairs a step), and with as many pairs a step as limbeck has on average, which
leaves padding, kernels and overhead as the difference. The ratio of the last line is to the former, the JSON holds
both. limbeck compiles its student before the clock starts, as it does in runs of 20 million tokens and more; its bf16
keeps activations in bf16, the peer's autocast converts them at every product.

Counted are real tokens, not padding, from the end of the warm-up steps to the end of the run; nothing is saved in
between. Model FLOPs are 6 a token and weight of the layers, and 12 · length · width a token and layer for attention:
those of the whole model, though limbeck computes its last layer for one token a text, so its share counts work that it
skips.

For a GPU: the two models of arXiv 2602.15547 at their true sizes, with weights, texts and teacher's vectors drawn at
random (`--true-size`), so that nothing is fetched. The peer then takes as many pairs in one forward pass as limbeck's
micro-batch holds of the longest texts, and adds gradients up to limbeck's step. `--long` is the long-context phase:
every document has so many tokens, and activations are recomputed on both sides.

    for model in jina-v5-small jina-v5-nano; do
      python benchmarks/train_throughput.py --recipe $model --true-size --max-tokens 512
      python benchmarks/train_throughput.py --recipe $model --true-size --long 8192
      python benchmarks/adapter_training.py --recipe $model --true-size --max-tokens 512 --batch 512
      limbeck run $model --set student.init=random --smoke 3
      python benchmarks/encode_throughput.py runs/$model-smoke/model --device cuda
    done
    python benchmarks/train_throughput.py --recipe jina-v5-small --true-size --long 32768
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from _harness import alternate, conclude, introduce, show
from _true_size import files_of, overrides, pairs
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

from limbeck import machine
from limbeck.config import PythonDocsSource, Recipe, load_recipe
from limbeck.data.batching import StepPlan
from limbeck.data.sources import read_source
from limbeck.data.tokens import TokenTable
from limbeck.model import backbone as backbones
from limbeck.model import runtime
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.model.prefixes import prefix
from limbeck.plan import estimate
from limbeck.teacher.backends import load_teacher
from limbeck.teacher.store import TeacherStore
from limbeck.training import distill as stage1

# Whole docstrings, so that lengths spread as those of real passages do.
SOURCE = PythonDocsSource(packages=["numpy", "scipy", "torch"], max_document_chars=2000, max_rows=4000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=10, help="timed optimizer steps of a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them, at least 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=SOURCE.max_rows)
    parser.add_argument("--max-tokens", type=int, default=256, help="both sides cut texts here")
    parser.add_argument("--true-size", action="store_true", help="draw weights, texts and the teacher's vectors")
    parser.add_argument("--long", type=int, help="the long-context phase: documents of so many tokens, recomputed")
    parser.add_argument("--tokens-per-step", type=int, help="default: the recipe's, of the phase that is measured")
    parser.add_argument("--tokens-per-micro-batch", type=int, help="likewise")
    parser.add_argument("--matryoshka", action="store_true", help="limbeck trains every prefix of the recipe's dims")
    parser.add_argument(
        "--compile",
        choices=("on", "off"),
        default="on",
        help="limbeck's torch.compile: on, as in a run long enough to repay it; the peer runs uncompiled by default",
    )
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "limbeck-benchmark")
    args = parser.parse_args()
    if args.long and not args.true_size:
        parser.error("--long goes with --true-size: the docstrings are short")
    args.max_tokens = args.long or args.max_tokens
    args.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    recipe = settings(args)
    phase = f"documents of {args.long:,} tokens, recomputed, " if args.long else ""
    introduce(
        "train_throughput",
        f"real tokens a second of distillation, {args.recipe}, {phase}{recipe.distill.precision}, "
        f"{args.threads} threads, " + (f"dims {recipe.student.dims}" if args.matryoshka else "full width only"),
        packages=("datasets",),
    )
    work = prepare(recipe, args)
    with tempfile.TemporaryDirectory() as folder:
        run(recipe, work, Path(folder), args)


def settings(args: argparse.Namespace) -> Recipe:
    """The recipe for one round: as many steps as are timed, the rest as a whole run would have it."""
    recipe = load_recipe(args.recipe)
    phase = recipe.extend if args.long and recipe.extend else recipe.distill
    steps = args.warmup + args.steps + 1  # the start of the last step is the end of the one before
    return load_recipe(
        args.recipe,
        [
            f"student.dims={recipe.student.dims if args.matryoshka else recipe.student.dims[-1:]}",
            f"distill.compile={args.compile}",
            f"distill.precision={runtime.precision_of(recipe.distill.precision, runtime.device_of())}",
            f"distill.steps={steps}",
            f"distill.checkpoint_every={steps}",
            "distill.projection_init=random",
            f"distill.max_tokens={args.max_tokens}",
            "distill.matryoshka_weights=null",
            f"distill.tokens_per_step={args.tokens_per_step or phase.tokens_per_step}",
            f"distill.tokens_per_micro_batch={args.tokens_per_micro_batch or phase.tokens_per_micro_batch}",
            f"distill.gradient_checkpointing={str(phase.gradient_checkpointing or bool(args.long)).lower()}",
            "extend=null",
            "adapters={}",  # theirs would have to fit these dims too
            f"student.max_tokens={max(recipe.student.max_tokens, args.max_tokens)}",
            *(overrides(args.recipe, args.cache / f"tokenizer-{recipe.name}") if args.true_size else []),
        ],
    )


@dataclass(frozen=True)
class Work:
    """What both sides train on. P: pairs, D: teacher dims."""

    queries: list[str]
    documents: list[str]
    source: stage1.TaughtSource
    store: TeacherStore
    vectors: np.ndarray  # fp16 [P, 2, D]
    pairs_per_step: int
    pairs_per_pass: int  # of the peer, where it takes as many pairs a step as limbeck


def prepare(recipe: Recipe, args: argparse.Namespace) -> Work:
    """Read the texts, and have the teacher's vectors of them; a second run finds them in the cache."""
    if args.true_size:
        queries, documents = pairs(args.pairs, longest=args.max_tokens, spread=not args.long)
    else:
        examples: list[Any] = list(read_source(SOURCE.model_copy(update={"max_rows": args.pairs})))
        queries, documents = [e.query for e in examples], [e.document for e in examples]
    teacher = load_teacher(recipe.teacher)
    store = TeacherStore.open(args.cache, fingerprint=teacher.fingerprint, dim=recipe.teacher.dim)
    rows = np.stack([store.teach(texts, "", teacher.encode) for texts in (queries, documents)])
    tokenizer = backbones.tokenizer_of(recipe.student, files_of(recipe))
    parts = [(queries, prefix("query")), (documents, prefix("document"))]
    limit = recipe.distill.max_tokens or recipe.student.max_tokens
    tokens = TokenTable.write(args.cache / "tokens", parts, tokenizer, max_tokens=limit)
    source = stage1.TaughtSource("python-docs", 1.0, tokens, rows.reshape(-1), roles=2)
    plan = StepPlan([source.rows], tokens_per_step=recipe.distill.tokens_per_step, seed=recipe.seed)
    whole = round(statistics.mean(len(plan.next().texts) / 2 for _ in range(100)))
    fits = max(1, recipe.distill.tokens_per_micro_batch // limit) if args.true_size else whole
    in_pass = min(whole, fits)
    in_step = in_pass * max(1, round(whole / in_pass))  # a step is a whole number of passes
    lengths = tokens.lengths
    print(f"texts     {len(queries):,} pairs, {lengths.mean():.1f} tokens a text (median {np.median(lengths):.0f})")
    default = SentenceTransformerTrainingArguments(output_dir="unused").per_device_train_batch_size
    sizes = f"{in_step} pairs in passes of {in_pass}" if args.true_size else f"{default} pairs, and {in_step}"
    print(f"step      limbeck {recipe.distill.tokens_per_step:,} tokens; peer {sizes}", flush=True)
    vectors = store.gather(rows.T.reshape(-1)).reshape(-1, 2, store.dim)
    return Work(queries, documents, source, store, vectors, in_step, in_pass)


def run(recipe: Recipe, work: Work, folder: Path, args: argparse.Namespace) -> None:
    student = backbones.build(recipe.student, files_of(recipe), seed=recipe.seed)
    spec = BundleSpec(
        name="student",
        pooling=recipe.student.pooling,
        dims=recipe.student.dims,
        max_tokens=recipe.distill.max_tokens or recipe.student.max_tokens,
    )
    save_bundle(folder / "student", backbone=student.model, tokenizer=student.tokenizer, spec=spec, projection=None)
    sides = {
        "limbeck": limbeck_side(recipe, student, work, folder, args),
        "peer, equal batch": peer_side(recipe, work, folder, args, batch=work.pairs_per_step),
    }
    if not args.true_size:  # with 8 pairs a step, the time of a large model would be that of AdamW
        sides["peer, default batch"] = peer_side(recipe, work, folder, args, batch=None)
    found = alternate(sides, rounds=args.rounds)
    print_utilisation(recipe, student.model, work, found)
    ours, equal = found["limbeck"], found["peer, equal batch"]
    against: Any = ("SentenceTransformerTrainer, equal batch", equal)
    also: dict[str, float] = {}
    if default := found.get("peer, default batch"):
        show("peer, as many pairs a step as limbeck", equal, "tokens/s")
        against = ("SentenceTransformerTrainer, default batch", default)
        also["ratio_equal_batch"] = statistics.median(o / e for o, e in zip(ours, equal, strict=True))
    own = ("limbeck long texts" if args.long else "limbeck stage 1", ours)
    conclude("train_throughput", ours=own, peer=against, unit="tokens/s", better="more", also=also)


def now() -> float:
    """Seconds, once all work that was given to the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


Moment = tuple[float, int]  # seconds, real tokens of all steps before


def rate(moments: Sequence[Moment], warmup: int, timed: int) -> float:
    """Tokens a second from the end of the warm-up on. moments: the start of every step."""
    (start, before), (end, after) = moments[warmup], moments[warmup + timed]
    return (after - before) / (end - start)


def limbeck_side(
    recipe: Recipe, student: backbones.Backbone, work: Work, folder: Path, args: argparse.Namespace
) -> Callable[[], float]:
    moments: list[Moment] = []

    class Timed(stage1.DistillBatches):
        def next(self) -> Any:
            tokens = moments[-1][1] + self.drawn if moments else 0
            moments.append((now(), tokens))
            batch = super().next()
            self.drawn = batch.tokens
            return batch

    stage1.DistillBatches = Timed  # type: ignore[misc]  # the rest of stage 1 runs as it is

    def side() -> float:
        moments.clear()
        with tempfile.TemporaryDirectory(dir=folder) as out:
            stage1.distill(recipe, student, [work.source], work.store.gather, Path(out), key="benchmark")
        return rate(moments, args.warmup, args.steps)

    return side


def peer_side(
    recipe: Recipe, work: Work, folder: Path, args: argparse.Namespace, *, batch: int | None
) -> Callable[[], float]:
    """One round of the peer with so many pairs a step; None = its default."""
    batching: dict[str, Any] = {}
    if batch is not None:
        batching["per_device_train_batch_size"] = work.pairs_per_pass
        batching["gradient_accumulation_steps"] = batch // work.pairs_per_pass
    # as many pairs in a round as limbeck trains on, so that no side is timed on a handful
    stretch = 1 if batch else work.pairs_per_step // 8
    warmup, timed = args.warmup * stretch, args.steps * stretch
    dataset = Dataset.from_dict({"query": work.queries, "document": work.documents, "label": work.vectors.tolist()})
    moments: list[Moment] = []

    class Counted(EmbedDistillLoss):
        def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
            features = list(sentence_features)
            drawn = sum(int(f["attention_mask"].sum()) for f in features)
            moments.append((moments[-1][0], moments[-1][1] + drawn) if moments else (0.0, drawn))
            return super().forward(features, labels)

    class Clock(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.starts: list[Moment] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.starts.append((now(), moments[-1][1]))

    optimizer = recipe.distill.optimizer

    def side() -> float:
        moments.clear()
        model = SentenceTransformer(
            str(folder / "student"), device="cpu" if runtime.device_of().type == "cpu" else None
        )
        if not recipe.distill.train_token_embeddings:
            transformer: Any = model[0]
            transformer.auto_model.get_input_embeddings().requires_grad_(False)
        clock = Clock()
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(folder / "peer"),
                max_steps=warmup + timed + 1,
                **batching,
                learning_rate=optimizer.learning_rate,
                max_grad_norm=optimizer.clip_norm,
                bf16=recipe.distill.precision == "bf16",
                activation_checkpointing=recipe.distill.gradient_checkpointing,
                prompts={"query": prefix("query"), "document": prefix("document")},
                use_cpu=runtime.device_of().type == "cpu",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=recipe.seed,
            ),
            train_dataset=dataset,
            loss=Counted(model, distance_metric="cosine", projection_dim=recipe.teacher.dim),
            callbacks=[clock],
        )
        trainer.train()
        return rate([(0.0, 0), *clock.starts], warmup, timed)

    return side


def print_utilisation(recipe: Recipe, model: Any, work: Work, rates: dict[str, list[float]]) -> None:
    """What share of this machine's matrix products at the student's shapes the model FLOPs of each side are."""
    shapes = [
        (recipe.distill.tokens_per_micro_batch, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    ]
    precision: Any = recipe.distill.precision
    peak = machine.matmul_rate(shapes, precision, device=runtime.device_of().type)
    lengths = work.source.tokens.lengths.astype(float)
    seen = (lengths**2).sum() / lengths.sum()  # tokens that a token attends to, on average over tokens
    shape = estimate.shape_of(model.config)
    flops = 6 * shape.layers + 12 * shape.depth * shape.attention * seen
    print(f"\npeak      {peak / 1e9:,.0f} GFLOP/s of {precision} matrix products at the student's shapes")
    for name, values in rates.items():
        share = statistics.median(values) * flops / peak
        print(f"          {name}: {flops / 1e6:,.1f} MFLOP a token, {100 * share:.1f}% of that peak")
    print(flush=True)


if __name__ == "__main__":
    main()
