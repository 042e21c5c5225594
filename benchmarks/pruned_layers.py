"""Which of a teacher's layers to keep: students before their first step, one for each choice, scored side by side.

    python benchmarks/pruned_layers.py RECIPE --tasks TASKS --layers 0,1,2,3,10,11 --layers 0,2,4,6,8,11

RECIPE prunes its student out of a transformer (`student.init: pruned`), with this choice of layers and every other;
TASKS are what `limbeck evaluate --tasks` takes, such as a folder of similarity sets in the format at the top of
`src/limbeck/evaluation/local_data.py`. A choice takes no training: seconds for a small teacher and small sets. With
`--rotary` each choice is made a second time, with its absolute positions replaced by rotary ones.

What is best before training need not be best after it; but where a student starts far from its teacher, a short
training does not bring it back.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _harness import introduce
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from limbeck.config import Recipe, load_recipe
from limbeck.evaluation.console import show
from limbeck.evaluation.request import Request, answer
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.teacher.backends import teacher_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--layers", action="append", default=[], metavar="0,1,11", help="may be given many times")
    parser.add_argument("--rotary", action="store_true", help="each choice with rotary positions too")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if recipe.student.pruned is None:
        parser.error(f"{args.recipe} does not prune its student: student.init is {recipe.student.init}")
    introduce("pruned layers", "scores of students before their first step")
    disable_progress_bar()
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
    student = recipe.student
    assert student.pruned is not None
    pruned = student.pruned.model_copy(update={"layers": [int(i) for i in layers.split(",")], "rope": rotary})
    student = student.model_copy(update={"pruned": pruned})
    source = None if pruned.source else teacher_files(recipe.teacher)
    built = backbones.build(student, source, seed=recipe.seed)
    path = folder / (layers.replace(",", "-") + ("-rotary" if rotary else ""))
    spec = BundleSpec(name=path.name, pooling=student.pooling, dims=student.dims, max_tokens=student.max_tokens)
    save_bundle(path, backbone=built.model, tokenizer=built.tokenizer, spec=spec, projection=None)
    return path


if __name__ == "__main__":
    main()
