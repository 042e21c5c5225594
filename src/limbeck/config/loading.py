"""A recipe by name or file: `extends:` and `--set a.b=c` applied, unknown keys refused."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck.config.recipe import Recipe
from limbeck.config.yaml_values import Loader
from limbeck.errors import ConfigError


def shipped_recipes() -> dict[str, Path]:
    """Name → file of the recipes that come with the package."""
    folder = resources.files("limbeck") / "recipes"
    return {Path(str(f)).stem: Path(str(f)) for f in folder.iterdir() if str(f).endswith(".yaml")}


def load_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by shipped name ("demo") or path, apply `extends:` and then `a.b=c` overrides, validate.

    Raises ConfigError: no such recipe, a circular `extends:`, a bad override, or a value that does not fit, each with
    the place and what was expected.
    """
    body = _read(str(name_or_path), seen=[])
    for override in overrides:
        _apply(body, override)
    try:
        return Recipe.model_validate(body)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(recipe)'}: {_explain(e)}" for e in error.errors()]
        raise ConfigError(f"recipe {name_or_path} does not fit:\n" + "\n".join(lines)) from None


def _explain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key; check the spelling against the fields documented in limbeck.config"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "missing" else f"{message}, got {error['input']!r:.80}"


def _read(name_or_path: str, seen: list[Path], beside: Path | None = None) -> dict[str, Any]:
    path = _locate(name_or_path, beside)
    if path in seen:
        raise ConfigError("circular extends: " + " -> ".join(str(p) for p in [*seen, path]))
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(body, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(body).__name__}")
    parent = body.pop("extends", None)
    if parent is None:
        return body
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends must name one recipe or file, got {parent!r}")
    return _merge(_read(parent, [*seen, path], path.parent), body)


def _locate(name_or_path: str, beside: Path | None) -> Path:
    # `extends:` is relative to the file that says so, whichever folder the command is run in
    path = Path(name_or_path) if beside is None else beside / name_or_path
    if path.is_file():
        return path.resolve()
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise ConfigError(f"no recipe {name_or_path!r}: give a YAML file or one of {', '.join(sorted(shipped))}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(body: dict[str, Any], override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set expects a.b=value, got {override!r}")
    *parents, last = key.split(".")
    node: Any = body
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {part!r} is not inside a section")
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
    try:
        parsed = yaml.load(value, Loader) if value else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {value!r} is not valid YAML: {error}") from None
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ConfigError(f"--set {override}: {key} is not inside a section")
