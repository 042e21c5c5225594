"""Licences of a model and of those it came from, as far as this machine knows them; the network is not asked."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from limbeck.config import Recipe
from limbeck.model.bundle import BundleSpec

UNKNOWN = "unknown"


class Origin(BaseModel):
    """A model and its licence; what is not known is "unknown"."""

    model_config = ConfigDict(frozen=True)

    name: str = UNKNOWN
    licence: str = UNKNOWN


class Licences(BaseModel):
    """Of the model itself, of the one whose weights it began with, and of its teacher."""

    model_config = ConfigDict(frozen=True)

    model: Origin
    base: Origin
    teacher: Origin


def licences_of(folder: Path, spec: BundleSpec, recipe: Recipe | None) -> Licences:
    """What is known of a model in `folder`; recipe: of the run that made it."""
    card = _front_matter(folder / "README.md")
    base = (_base_of(recipe) if recipe else None) or _named(card.get("base_model"))
    return Licences(
        model=Origin(name=spec.name, licence=_licence_in(card) or UNKNOWN),
        base=_origin(base),
        teacher=_origin(spec.teacher.model if spec.teacher else None),
    )


def licence_of(name: str) -> str | None:
    """Licence of a model: of its card, where it is a folder or in the hub's cache; else of a package of that name."""
    from huggingface_hub import try_to_load_from_cache

    card: Any = Path(name) / "README.md"
    if not card.is_file() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        card = try_to_load_from_cache(name, "README.md")
    if isinstance(card, str | Path) and Path(card).is_file():
        return _licence_in(_front_matter(Path(card)))
    try:
        about = metadata.metadata(name)
    except (metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
        return None
    stated = [about[key].strip() for key in ("License-Expression", "License") if key in about]
    first = next((text.splitlines()[0] for text in stated if text), None)  # some put the whole licence there
    return f"{first} (of the Python package)" if first else None  # the weights in it may have another


def _origin(name: str | None) -> Origin:
    return Origin() if name is None else Origin(name=name, licence=licence_of(name) or UNKNOWN)


def _base_of(recipe: Recipe) -> str | None:
    """The model whose layers the student began with; None where all were drawn at random."""
    student, teacher = recipe.student, recipe.teacher
    if student.init == "pruned":
        return (student.pruned.source if student.pruned else None) or teacher.model
    return student.model if student.init == "pretrained" else None


def _named(value: Any) -> str | None:
    """A card names one model or several."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _licence_in(card: dict[str, Any]) -> str | None:
    licence = card.get("license")
    return card.get("license_name") or "other" if licence == "other" else _named(licence)


def _front_matter(card: Path) -> dict[str, Any]:
    """The metadata of a model card; {} where there is none, or it cannot be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return metadata_load(card) or {} if card.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
