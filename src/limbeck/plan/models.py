"""Shapes of the student and the teacher, from the recipe or from files on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.config import Recipe
from limbeck.errors import LimbeckError, ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def student_config_of(recipe: Recipe, teacher: PretrainedConfig | None) -> PretrainedConfig:
    """Shape of the student: from the recipe, the teacher, or files on this machine.

    Raises ModelError when it is in none of them, ConfigError when student.config does not fit it.
    """
    from transformers import JinaEmbeddingsV3Config, Qwen3Config

    from limbeck.model.backbone import student_config, without_dropout
    from limbeck.model.pretrained import read_config

    student, overrides = recipe.student, dict(recipe.student.config or {})
    if student.init in ("pretrained", "random"):
        if "model_type" in overrides:
            return student_config(student.model_copy(update={"init": "random"}))
        folder = _local_folder(str(student.model), student.revision, "student.config")
        return student_config(student.model_copy(update={"model": folder, "revision": None}))
    source = teacher
    if student.pruned and student.pruned.source:
        source = read_config(_local_folder(student.pruned.source, None, "student.pruned.source"))
    if source is None:
        raise ModelError(
            f"the student takes its shape from {recipe.teacher.model}, which is not on this machine: "
            "fetch it first, or name a folder that holds it in teacher.model"
        )
    if student.fresh:
        return _with(
            Qwen3Config(
                vocab_size=source.vocab_size,
                hidden_size=student.fresh.hidden_size,
                num_hidden_layers=student.fresh.layers,
                num_attention_heads=student.fresh.heads,
                num_key_value_heads=student.fresh.kv_heads,
                head_dim=student.fresh.head_dim,
                intermediate_size=student.fresh.intermediate_size,
            ),
            overrides,
        )
    assert student.pruned
    depth = {"num_hidden_layers": student.pruned.depth}
    if source.model_type == "bert" and student.pruned.rope:
        names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
        shape: dict[str, Any] = {name: getattr(source, name) for name in names}
        return _with(without_dropout(JinaEmbeddingsV3Config(**shape)), depth | overrides)
    pruned = without_dropout(type(source).from_dict(source.to_dict() | {"layer_types": None} | depth))
    return _with(pruned, overrides)


def _with(config: PretrainedConfig, overrides: dict[str, Any]) -> PretrainedConfig:
    for key, value in overrides.items():
        setattr(config, key, value)
    return config


def _local_folder(model: str, revision: str | None, setting: str) -> str:
    """A folder, or that of a hub id in the cache. Raises ModelError."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(model, "config.json", revision=revision, local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None:
        raise ModelError(
            f"the shape of {model} is not on this machine: put its config (with model_type) into {setting}, or fetch it"
        )
    return str(Path(found).parent)


def teacher_config_of(recipe: Recipe) -> PretrainedConfig | None:
    """Shape of the teacher where its files are on this machine, else None."""
    from transformers import AutoConfig

    folder = teacher_folder(recipe)
    if folder is None:
        return None
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, revision=recipe.teacher.revision)
    except (OSError, ValueError):
        return None


def teacher_folder(recipe: Recipe) -> str | None:
    """Folder or cached hub id of the teacher; None for an endpoint or a package that is not installed."""
    from limbeck.teacher.backends import resolve_model_folder

    if recipe.teacher.type == "openai":
        return None
    try:
        return str(resolve_model_folder(recipe.teacher))
    except LimbeckError:
        return None
