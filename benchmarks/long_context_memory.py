"""Memory of long texts: stage 1 at 8,192 tokens and a vector of 32,768 tokens, against sentence-transformers.

    python benchmarks/long_context_memory.py

Every number is the peak resident memory (RSS) of a process of its own that imports what it needs, loads the student of
a recipe (by default the demo's, with room for 32,768 tokens) and does one thing: some steps of stage 1 on texts of
random tokens with gradient checkpointing, as the long-context phase runs them, or one `encode` of one text. The peer is
`SentenceTransformer(folder).encode(text)` of the same bundle, as it comes: its padding, attention and precision.

Beside them stands what the lengths would take if the whole attention matrix were kept (`eager` attention, and no
gradient checkpointing): measured at the lengths of --shorter, and continued to the full one by the parabola through
these points, since memory then grows with the square of the length.

Both sides of limbeck should stay below --limit; the last line says by how much.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from _harness import alternate, conclude, introduce, show

from limbeck import machine
from limbeck.config import Recipe, load_recipe

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--encode-tokens", type=int, default=32_768)
    parser.add_argument("--train-tokens", type=int, default=8_192)
    parser.add_argument("--shorter", type=int, nargs=3, default=[1_024, 2_048, 3_072], help="lengths that eager fits")
    parser.add_argument("--steps", type=int, default=3, help="of training")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=6.0, help="GB (10^9 bytes)")
    parser.add_argument("--part", choices=PARTS, help="measure one part in this process (what the others are run by)")
    parser.add_argument("--tokens", type=int, help="length of the text of that part")
    parser.add_argument("--folder", type=Path, help="where its bundle and texts are")
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](args)
        print(json.dumps({"peak": machine.peak_rss_mib()}))
        return
    introduce(
        "long_context_memory",
        f"peak memory of training at {args.train_tokens:,} tokens and encoding {args.encode_tokens:,}",
    )
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    def peak(part: str, tokens: int) -> float:
        """MiB of one part in a process of its own."""
        own = ["--part", part, "--tokens", str(tokens), "--folder", str(folder)]
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *own], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{part} at {tokens:,} tokens ended with status {done.returncode} (-9: out of memory)")
        return json.loads(done.stdout.splitlines()[-1])["peak"]

    def continued(part: str, tokens: int) -> float:
        """MiB at a length, by the parabola through the shorter ones."""
        measured = [peak(part, length) for length in args.shorter]
        for length, value in zip(args.shorter, measured, strict=True):
            show(f"  {part}, {length:,} tokens", [value], "MiB")
        return float(np.polyval(np.polyfit(args.shorter, measured, 2), tokens))

    peak("prepare", args.encode_tokens)
    train_before = continued("train-eager", args.train_tokens)
    encode_before = continued("encode-eager", args.encode_tokens)
    sides = {"train": args.train_tokens, "encode": args.encode_tokens, "peer": args.encode_tokens}
    found = alternate(
        {part: partial(peak, part, tokens) for part, tokens in sides.items()}, rounds=args.rounds, warmup=0
    )
    show(f"training, eager, continued to {args.train_tokens:,} tokens", [train_before], "MiB")
    show(f"encoding, eager, continued to {args.encode_tokens:,} tokens", [encode_before], "MiB")
    show(f"limbeck stage 1, {args.train_tokens:,} tokens", found["train"], "MiB")
    limit = args.limit * 1e9 / MIB
    most = max(*found["train"], *found["encode"])
    print(f"limit {limit:,.0f} MiB: {'kept' if most < limit else 'EXCEEDED'}, the most is {most:,.0f} MiB")
    conclude(
        "long_context_memory",
        ours=(f"limbeck encode, {args.encode_tokens:,} tokens", found["encode"]),
        peer=(f"sentence-transformers, {args.encode_tokens:,} tokens", found["peer"]),
        unit="MiB",
        better="less",
        also={"train": max(found["train"]), "train_eager": train_before, "encode_eager": encode_before, "limit": limit},
    )


# ------------------------------------------------------------------------------------------ the parts


def settings(args: argparse.Namespace, **distill: Any) -> Recipe:
    """The recipe with a student of --encode-tokens, that trains on texts of --tokens, one a step."""
    shape = {f"{name}_per_{of}": args.tokens for name, of in (("tokens", "step"), ("tokens", "micro_batch"))}
    changes = {"steps": args.steps, "max_tokens": args.tokens, "checkpoint_every": args.steps, "log_every": args.steps}
    # a rotation is fitted on 2,048 texts, which would be all that is measured
    changes |= shape | {"projection_init": "random", "compile": "off"} | distill
    overrides = [f"distill.{name}={json.dumps(value)}" for name, value in changes.items()]
    return load_recipe(args.recipe, [f"student.max_tokens={args.encode_tokens}", *overrides])


def prepare(args: argparse.Namespace) -> None:
    """Write the untrained student, and a text of each length."""
    from limbeck.model import backbone as backbones
    from limbeck.model.bundle import BundleSpec, save_bundle
    from limbeck.model.prefixes import prefix
    from limbeck.teacher.backends import resolve_model_folder

    recipe = settings(args)
    built = backbones.build(recipe.student, resolve_model_folder(recipe.teacher), seed=recipe.seed)
    about = recipe.student
    spec = BundleSpec(name="student", pooling=about.pooling, dims=about.dims, max_tokens=about.max_tokens)
    save_bundle(args.folder / "student", backbone=built.model, tokenizer=built.tokenizer, spec=spec, projection=None)
    words = sorted(word for word in built.tokenizer.hf.get_vocab() if word.isascii() and word.isalpha())
    (closed,), _ = built.tokenizer.ids([""], prefix=prefix("document"), max_tokens=about.max_tokens)
    drawn = Random(recipe.seed)
    for length in (*args.shorter, args.encode_tokens):
        text = " ".join(drawn.choices(words, k=length - len(closed)))
        (ids,), _ = built.tokenizer.ids([text], prefix=prefix("document"), max_tokens=2 * length)
        assert len(ids) == length, f"expected a text of {length} tokens, got {len(ids)}"
        (args.folder / f"{length}.txt").write_text(text)


def train(args: argparse.Namespace, **distill: Any) -> None:
    """Some steps of stage 1 on random tokens towards random vectors."""
    from limbeck.data.tokens import TokenTable
    from limbeck.model import backbone as backbones
    from limbeck.teacher.backends import resolve_model_folder
    from limbeck.training import distill as stage1

    recipe = settings(args, **{"gradient_checkpointing": True} | distill)
    student = backbones.build(recipe.student, resolve_model_folder(recipe.teacher), seed=recipe.seed)
    drawn = np.random.default_rng(recipe.seed)
    ids = drawn.integers(1_000, len(student.tokenizer), args.steps * args.tokens, dtype=np.int32)
    tokens = TokenTable(ids, np.arange(args.steps + 1, dtype=np.int64) * args.tokens, 0)
    source = stage1.TaughtSource("random", 1.0, tokens, np.arange(args.steps), roles=1)
    vectors = drawn.standard_normal((args.steps, recipe.teacher.dim)).astype(np.float16)
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        stage1.distill(recipe, student, [source], vectors.__getitem__, Path(out), key="benchmark")


def encode(args: argparse.Namespace, attention: str | None = None) -> None:
    """One text by limbeck."""
    import limbeck

    encoder = limbeck.load(args.folder / "student")
    if attention:
        backbone: Any = encoder.model.backbone
        backbone.set_attn_implementation(attention)
    encoder.encode((args.folder / f"{args.tokens}.txt").read_text())


def peer(args: argparse.Namespace) -> None:
    """The same text by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = SentenceTransformer(str(args.folder / "student"))
    model.encode((args.folder / f"{args.tokens}.txt").read_text(), prompt_name="document")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "prepare": prepare,
    "train": train,
    "train-eager": lambda args: train(args, attention="eager", gradient_checkpointing=False),
    "encode": encode,
    "encode-eager": lambda args: encode(args, attention="eager"),
    "peer": peer,
}

if __name__ == "__main__":
    main()
