"""What a large corpus takes to encode and to index: shards, GPU hours, storage by dims and bits, index memory, money.

    python benchmarks/corpus_plan.py runs/demo/model                      # measures tokens a second here
    python benchmarks/corpus_plan.py --tokens-per-second 1e6 --gpu-hour 3 --tokens-per-text 120 --texts 1e9

The rate is that of one worker: measured now, with the model and device that it would have, on texts joined to
`--tokens-per-text` tokens each; or `--tokens-per-second`, measured elsewhere. All other options are assumptions, to be
replaced by your own numbers. Formulas:

    hours of workers   texts × tokens a text / tokens a second / 3600 / share of the time that they compute
    vectors            texts × dims × 4 (float32), dims + 4 (int8), dims / 8 (1 bit); without texts and ids
    graph of an index  texts × 2 · m · 4 bytes: the lowest layer of HNSW has up to 2 · m neighbours a point, of 4 bytes
    memory of a node   copies × (bits + graph) / nodes
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from _harness import alternate, introduce, show

from limbeck.compress import vector_bytes
from limbeck.search.engine import HNSW_M


@dataclass(frozen=True)
class Asked:
    """What is to be planned."""

    texts: float
    tokens_per_text: float
    tokens_per_second: float  # of one worker
    workers: int
    busy: float  # share of the time in which a worker computes; the rest is reading, writing, loading, repeating
    shard_rows: int
    gpu_hour: float | None  # price


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/demo/model")
    parser.add_argument("--texts", type=float, default=1e9)
    parser.add_argument("--tokens-per-text", type=float, default=120)
    parser.add_argument("--tokens-per-second", type=float, help="of one worker; measured here if not given")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--busy", type=float, default=0.8)
    parser.add_argument("--shard-rows", type=int, default=65_536)
    parser.add_argument("--gpu-hour", type=float, help="price of a worker's GPU (or machine) an hour")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--copies", type=int, default=2, help="of every point of the index")
    parser.add_argument("--node-gib", type=float, default=64, help="memory of a node that the index may use")
    args = parser.parse_args()
    rate = args.tokens_per_second or measured(args.model, round(args.tokens_per_text))
    asked = Asked(args.texts, args.tokens_per_text, rate, args.workers, args.busy, args.shard_rows, args.gpu_hour)
    print("\n".join(plan(asked, args.dims, copies=args.copies, node_gib=args.node_gib)))
    print(f"\ntokens a second were {'given' if args.tokens_per_second else 'measured'}; all else is arithmetic")


def measured(model: str, tokens: int) -> float:
    """Tokens a second of one worker on this machine."""
    from encode_throughput import texts_of

    import limbeck

    encoder = limbeck.load(model)
    introduce("corpus_plan", f"tokens a second of {model}, {encoder.runtime}")
    short, long = texts_of(encoder.tokenizer, 0, 400)
    del short
    texts = [text[: encoder.tokenizer.placed([text], max_tokens=tokens)[0].read] for text in long]
    rows, _ = encoder.tokenizer.ids(texts, max_tokens=encoder.max_tokens)
    total = sum(map(len, rows))
    task = encoder.tasks[0] if encoder.tasks else None

    def once() -> float:
        start = time.perf_counter()
        encoder.encode(texts, task=task)
        return total / (time.perf_counter() - start)

    values = alternate({"limbeck": once}, rounds=5)["limbeck"]
    show(f"{total / len(texts):.0f} tokens a text", values, "tokens/s")
    print()
    return sorted(values)[len(values) // 2]


def plan(asked: Asked, dims: list[int], *, copies: int, node_gib: float) -> list[str]:
    """Lines of the plan."""
    hours = asked.texts * asked.tokens_per_text / asked.tokens_per_second / 3600 / asked.busy
    shards = -(-round(asked.texts) // asked.shard_rows)
    minutes = asked.shard_rows * asked.tokens_per_text / asked.tokens_per_second / 60
    lines = [
        f"{asked.texts:,.0f} texts × {asked.tokens_per_text:g} tokens, at {asked.tokens_per_second:,.0f} tokens/s a "
        f"worker that computes {asked.busy:.0%} of the time",
        f"  shards    {shards:,} of {asked.shard_rows:,} texts, {minutes:.1f} minutes each: what a kill costs",
        f"  hours     {hours:,.0f} of one worker, {hours / asked.workers:,.1f} with {asked.workers:,}",
    ]
    if asked.gpu_hour is not None:
        lines.append(f"  money     {hours * asked.gpu_hour:,.0f} at {asked.gpu_hour:g} an hour")
    graph = asked.texts * 2 * HNSW_M * 4
    lines += ["", f"{'dims':>6} {'float32':>10} {'int8':>10} {'1 bit':>10}   index in memory: bits and graph, nodes"]
    for dim in dims:
        sizes = [asked.texts * vector_bytes(dim, precision) for precision in ("float32", "int8", "binary")]
        memory = copies * (sizes[2] + graph)
        nodes = max(copies, -(-memory // (node_gib * 2**30)))
        cells = " ".join(f"{size(n):>10}" for n in sizes)
        lines.append(f"{dim:>6} {cells}   {size(memory)} for {copies} copies, {nodes:.0f} × {node_gib:g} GiB")
    return [*lines, f"graph alone: {size(graph)} a copy; float16 for rescoring, on disk: half of float32 a copy"]


def size(bytes_: float) -> str:
    """In GiB or TiB."""
    return f"{bytes_ / 2**40:,.2f} TiB" if bytes_ >= 2**40 else f"{bytes_ / 2**30:,.1f} GiB"


if __name__ == "__main__":
    main()
