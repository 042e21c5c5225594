"""A recipe's student at its true size where neither its weights nor its texts are at hand: all of it is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from limbeck.config import Recipe, load_recipe
from limbeck.errors import ConfigError
from limbeck.smoke.stand_ins import word, write_tokenizer
from limbeck.teacher.backends import resolve_model_folder


def overrides(name: str, folder: Path) -> list[str]:
    """What makes a recipe do without files: random weights, a tokenizer of its vocabulary, and vectors for a teacher.

    folder: the tokenizer is written there. Raises ConfigError: the recipe does not say its student's shape.
    """
    recipe = load_recipe(name)
    if not recipe.student.config or "vocab_size" not in recipe.student.config:
        raise ConfigError(f"recipe {name} has no student.config with the shape of its student: leave out --true-size")
    write_tokenizer(folder, recipe.student.config["vocab_size"])
    return [
        "student.init=random",
        f"student.tokenizer={folder}",
        f"teacher={{type: random, model: random-vectors, dim: {recipe.teacher.dim}}}",
    ]


def pairs(count: int, *, longest: int, spread: bool, seed: int = 0) -> tuple[list[str], list[str]]:
    """Queries and documents of drawn words.

    Args:
        count: how many pairs.
        longest: words of the longest text.
        spread: lengths as those of passages, log-normal with a median of a quarter of `longest` for documents and a
            sixteenth for queries; else every document is as long as may be, and queries have 16 words.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)

    def texts(median: float, fixed: int) -> list[str]:
        lengths = draw.lognormal(np.log(max(2.0, median)), 0.8, count) if spread else np.full(count, fixed)
        cut = np.clip(lengths, 2, longest).astype(int)
        return [" ".join(word(n) for n in draw.integers(100_000, size=length)) for length in cut]

    return texts(longest / 16, min(longest, 16)), texts(longest / 4, longest)


def files_of(recipe: Recipe) -> str | None:
    """Where the teacher's files are; random vectors have none."""
    return None if recipe.teacher.type == "random" else resolve_model_folder(recipe.teacher)
