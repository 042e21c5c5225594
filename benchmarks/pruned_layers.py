"""Which of a teacher's layers to keep: students before their first step, one for each choice, scored side by side.

    limbeck run RECIPE --stop-after data
    python benchmarks/pruned_layers.py RECIPE --keep 8
    python benchmarks/pruned_layers.py RECIPE --tasks TASKS --layers 0,1,2,3,10,11 --layers 0,2,4,6,8,11

RECIPE prunes its student out of a transformer (`student.init: pruned`). `--keep` finds layers for it by training texts
alone, as a recipe with `student.pruned.layers: N` has it done. `--tasks` scores the recipe's choice and others beside
each other, on what `limbeck evaluate --tasks` takes, such as a folder of similarity sets in the format at the top of
`src/limbeck/evaluation/local_data.py`. Neither takes any training. With `--rotary` each choice that is scored is made a
second time, with its absolute positions replaced by rotary ones.

What is best before training need not be best after it; but where a student starts far from its teacher, a short
training does not bring it back.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _harness import introduce
from rich.console import Console
from torch import nn
from transformers.utils.logging import disable_progress_bar

from limbeck.config import Recipe, Student, load_recipe
from limbeck.data.prepare import Prepared
from limbeck.evaluation.console import show
from limbeck.evaluation.request import Request, answer
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.model.pruning import Kept, choose_layers
from limbeck.model.tokenizer import Tokenizer
from limbeck.teacher.backends import teacher_files
from limbeck.training.prune import TEXTS, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--keep", type=int, help="so many layers, found by training texts")
    parser.add_argument("--texts", type=int, default=TEXTS, help="of these, evenly from all sources")
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
        find(recipe, args.keep, args.texts, args.compute)
    if args.tasks:
        compare(recipe, args)


def find(recipe: Recipe, keep: int, count: int, precision: str) -> None:
    """Choose layers as a recipe with `layers: N` has it done, and print what is left after each that is dropped."""
    section = with_layers(recipe.student, keep)
    source = teacher_files(recipe.teacher) if backbones.reads_teacher(section) else None
    texts = sample(Prepared.open(recipe.out_dir / "data"), count)
    print(f"{len(texts)} texts; correlation of their pairwise cosines with those of all layers")

    def say(kept: Kept) -> None:
        print(f"{len(kept.layers):3} {kept.agreement:.3f}  {','.join(map(str, kept.layers))}", flush=True)

    choose_layers(section, source, texts, seed=recipe.seed, precision=precision, progress=say)


def with_layers(student: Student, layers: int | list[int], rotary: bool | None = None) -> Student:
    """That section of the recipe, with other layers."""
    assert student.pruned is not None
    rope = student.pruned.rope if rotary is None else rotary
    return student.model_copy(update={"pruned": student.pruned.model_copy(update={"layers": layers, "rope": rope})})


def compare(recipe: Recipe, args: argparse.Namespace) -> None:
    """Score the recipe's choice of layers, and others."""
    assert recipe.student.pruned is not None
    own = recipe.student.pruned.layers
    choices = dict.fromkeys([*([] if isinstance(own, int) else [",".join(map(str, own))]), *args.layers])
    if not choices:
        raise SystemExit("the recipe names no layers to score: name some with --layers")
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
    student = with_layers(recipe.student, layers, rotary)
    source = teacher_files(recipe.teacher) if backbones.reads_teacher(student) else None
    built = backbones.build(student, source, seed=recipe.seed)
    name = "-".join(map(str, layers)) + ("-rotary" if rotary else "")
    spec = BundleSpec(name=name, pooling=student.pooling, dims=student.dims, max_tokens=student.max_tokens)
    return built.model, built.tokenizer, spec


if __name__ == "__main__":
    main()
