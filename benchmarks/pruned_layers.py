"""Which of a teacher's layers to keep: students before their first step, one for each choice, scored side by side.

    limbeck run RECIPE --stop-after data
    python benchmarks/pruned_layers.py RECIPE --keep 8
    python benchmarks/pruned_layers.py RECIPE --tasks TASKS --layers 0,1,2,3,10,11 --layers 0,2,4,6,8,11

RECIPE prunes its student out of a transformer (`student.init: pruned`). `--keep` finds layers for it by training texts
alone: from all layers, it drops one after the other, each time the one without which the texts' pairwise cosines
correlate best with those of all layers. `--tasks` scores the recipe's choice and others beside each other, on what
`limbeck evaluate --tasks` takes, such as a folder of similarity sets in the format at the top of
`src/limbeck/evaluation/local_data.py`. Neither takes any training. With `--rotary` each choice that is scored is made a
second time, with its absolute positions replaced by rotary ones.

What is best before training need not be best after it; but where a student starts far from its teacher, a short
training does not bring it back.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _harness import introduce
from rich.console import Console
from torch import nn
from transformers.utils.logging import disable_progress_bar

from limbeck.config import Recipe, load_recipe
from limbeck.data.prepare import Prepared
from limbeck.evaluation.console import show
from limbeck.evaluation.request import Request, answer
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.model.encoder import Encoder
from limbeck.model.pretrained import read_model
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer
from limbeck.teacher.backends import teacher_files

TOKENS = 96  # of a text that layers are found by: whole ones take several times as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--keep", type=int, help="so many layers, found by training texts")
    parser.add_argument("--texts", type=int, default=600, help="of these, evenly from all sources")
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--layers", action="append", default=[], metavar="0,1,11", help="may be given many times")
    parser.add_argument("--rotary", action="store_true", help="each choice with rotary positions too")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if recipe.student.pruned is None:
        parser.error(f"{args.recipe} does not prune its student: student.init is {recipe.student.init}")
    if not args.keep and not args.tasks:
        parser.error("say what to do: --keep N finds layers, --tasks scores choices of them")
    introduce("pruned layers", "students before their first step")
    disable_progress_bar()
    if args.keep:
        find(recipe, args.keep, sample(Prepared.open(recipe.out_dir / "data"), args.texts), args.compute)
    if args.tasks:
        compare(recipe, args)


def sample(prepared: Prepared, count: int) -> list[str]:
    """Training texts, as many of each role of each source."""
    columns = [s.train.texts(role) for s in prepared.sources.values() for role in s.train.roles]
    each = max(1, count // len(columns))
    return [texts[int(i)] for texts in columns for i in np.linspace(0, len(texts) - 1, min(each, len(texts)))]


def find(recipe: Recipe, keep: int, texts: list[str], compute: str) -> None:
    """Drop layers one after the other, and print what is left."""
    assert recipe.student.pruned is not None
    source = recipe.student.pruned.source or teacher_files(recipe.teacher)
    layers = list(range(len(backbones.layers(read_model(source)))))
    if not 1 <= keep < len(layers):
        raise SystemExit(f"--keep must be from 1 to {len(layers) - 1}, got {keep}")
    pairs = np.triu_indices(len(texts), 1)

    def cosines(kept: list[int]) -> np.ndarray:
        backbone, tokenizer, spec = student_of(recipe, kept, recipe.student.pruned.rope)
        spec = spec.model_copy(update={"max_tokens": min(spec.max_tokens, TOKENS)})
        student = StudentModel(backbone, pooling=spec.pooling)
        vectors = Encoder(student, tokenizer, spec, precision=compute).encode(texts)
        return (vectors @ vectors.T)[pairs]

    whole = cosines(layers)
    print(f"{len(texts)} texts; correlation of their {len(whole):,} cosines with those of all {len(layers)} layers")
    while len(layers) > keep:
        left = [[i for i in layers if i != dropped] for dropped in layers]
        agreement = [float(np.corrcoef(whole, cosines(kept))[0, 1]) for kept in left]
        layers = left[int(np.argmax(agreement))]
        print(f"{len(layers):3} {max(agreement):.3f}  {','.join(map(str, layers))}", flush=True)


def compare(recipe: Recipe, args: argparse.Namespace) -> None:
    """Score the recipe's choice of layers, and others."""
    assert recipe.student.pruned is not None
    choices = {",".join(map(str, recipe.student.pruned.layers)): None, **dict.fromkeys(args.layers)}
    with tempfile.TemporaryDirectory() as made:
        models = [
            str(saved(recipe, layers, rotary, Path(made)))
            for layers in choices
            for rotary in ((False, True) if args.rotary else (recipe.student.pruned.rope,))
        ]
        request = Request(models=models, tasks=args.tasks, compute=args.compute, out=Path(made) / "out")
        evaluation, _ = answer(request)
        show(evaluation, Console(width=160))


def saved(recipe: Recipe, layers: str, rotary: bool, folder: Path) -> Path:
    """The student that keeps these layers, as a bundle."""
    backbone, tokenizer, spec = student_of(recipe, [int(i) for i in layers.split(",")], rotary)
    path = folder / spec.name
    save_bundle(path, backbone=backbone, tokenizer=tokenizer, spec=spec, projection=None)
    return path


def student_of(recipe: Recipe, layers: list[int], rotary: bool) -> tuple[nn.Module, Tokenizer, BundleSpec]:
    """Backbone, tokenizer and description of the student that keeps these layers."""
    student = recipe.student
    assert student.pruned is not None
    pruned = student.pruned.model_copy(update={"layers": layers, "rope": rotary})
    student = student.model_copy(update={"pruned": pruned})
    source = None if pruned.source else teacher_files(recipe.teacher)
    built = backbones.build(student, source, seed=recipe.seed)
    name = "-".join(map(str, layers)) + ("-rotary" if rotary else "")
    spec = BundleSpec(name=name, pooling=student.pooling, dims=student.dims, max_tokens=student.max_tokens)
    return built.model, built.tokenizer, spec


if __name__ == "__main__":
    main()
