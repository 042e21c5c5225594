r"""Is what the retrieval adapter gains more than chance? The same adapter from several seeds, on one distilled base.

    python benchmarks/adapter_seeds.py runs/demo

Reads a finished run (`make demo`), trains its retrieval adapter anew for each seed (start of the LoRA, order of rows,
negatives drawn, dropout), and scores the averaged adapter on the run's held-out queries: nDCG@10 of floats and of one
bit a dim. `--without-spread` also trains it without the orthogonal regulariser. The last line is one JSON object, also
written to --out. results/adapter_seeds.json is of more texts and a longer recipe than the demo's:

    limbeck run demo --set out=runs/longer --set data.sources.0.max_rows=12000 --set distill.steps=280 \
        --set adapters.retrieval.steps=48 --set adapters.retrieval.batch_size=80 --set evaluate.queries=1000
    python benchmarks/adapter_seeds.py runs/longer --without-spread
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _harness import introduce
from rich.console import Console

from limbeck import machine
from limbeck.config import Recipe, load_recipe
from limbeck.evaluation import heldout
from limbeck.files import write_json
from limbeck.model.loading import load
from limbeck.model.projection import Projection
from limbeck.training.adapt import adapt
from limbeck.training.measure import vectors_of
from limbeck.training.pipeline import Pipeline
from limbeck.training.task_sources import task_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--without-spread", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    args = parser.parse_args()
    if not (args.run / "distill" / "student").is_dir():
        print(f"skipped: {args.run} is no finished run; make one with `make demo`")
        return
    torch.set_num_threads(args.threads)
    recipe = load_recipe(args.run / "recipe.yaml")
    introduce("adapter_seeds", f"the retrieval adapter of {recipe.name} from seeds {args.seeds}", packages=("peft",))
    run = Pipeline(recipe.model_copy(update={"out": str(args.run)}), Console(quiet=True))
    sets = heldout.heldout_sets(run.prepared, recipe.evaluate.queries)
    width = recipe.student.dims[-1]
    base = heldout.score(sets, partial(vectors_of, load(run.student_folder), None), [width])
    found: dict[str, Any] = {"benchmark": "adapter_seeds", "base": curve(base, width), "seeds": {}}
    arms = {"with_spread": True} | ({"without_spread": False} if args.without_spread else {})
    for seed in args.seeds:
        found["seeds"][seed] = {name: scores(run, recipe, seed, spread, sets, width) for name, spread in arms.items()}
        print(f"seed {seed}: {found['seeds'][seed]}", flush=True)
    for name in arms:
        for precision in ("float32", "binary"):
            values = [of[name][precision] for of in found["seeds"].values()]
            found.setdefault("summary", {})[f"{name}/{precision}"] = {
                "mean": round(statistics.mean(values), 4),
                "stdev": round(statistics.stdev(values), 4) if len(values) > 1 else None,
                "range": round(max(values) - min(values), 4),
            }
    found["machine"] = str(machine.describe())
    found["queries"] = sum(len(s.queries) for s in sets)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, found)
    print(json.dumps(found))


def scores(run: Pipeline, recipe: Recipe, seed: int, spread: bool, sets: Any, width: int) -> dict[str, float]:
    block = recipe.adapters.retrieval
    assert block is not None, "the run has no retrieval adapter"
    if not spread:
        block = block.model_copy(update={"spread_weight": 0.0})
    seeded = recipe.model_copy(update={"seed": seed})
    base = run.base()
    projection = Projection.load(run.student_folder / "projection.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for asked in block.sources:
            stem = Path(folder) / asked.name
            source, _ = task_source(
                seeded,
                "retrieval",
                block,
                asked,
                run.prepared,
                base.tokenizer,
                run.teach_texts,
                run.store.gather,
                stem,
            )
            sources.append(source)
        adapted = adapt(
            seeded, "retrieval", block, base, projection, sources, run.store.gather, Path(folder), key=f"{seed}"
        )
    encoder = run.encoder_with({"retrieval": adapted.averaged or adapted.final})
    return curve(heldout.score(sets, partial(vectors_of, encoder, "retrieval"), [width]), width)


def curve(scored: heldout.Scored, width: int) -> dict[str, float]:
    return {r.precision: round(r.ndcg_at_10, 4) for r in scored.curve if r.dim == width and r.rescored_by is None}


if __name__ == "__main__":
    main()
