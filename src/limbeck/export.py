"""A trained model, written in the layout of other software."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from limbeck import __version__
from limbeck.errors import ConfigError, ModelError
from limbeck.files import write_json
from limbeck.folders import full_disk_named, replaced_folder, sync_file
from limbeck.model import jina_v5
from limbeck.model.bundle import read_bundle

Format = Literal["jina-v5"]
MARK = "limbeck_export.json"  # tells an export, which may be replaced, from any other folder


def export(model: str | Path, out: str | Path, *, format: Format) -> Path:
    """Write a model in another layout, whole or not at all; an earlier export in `out` is replaced.

    Args:
        model: folder of a bundle, or one that has the layout of the published jina-v5 models.
        out: folder to write.
        format: "jina-v5" = the layout of jina-embeddings-v5-text, for Qwen3 and EuroBERT backbones with adapters.

    Returns:
        `out`.

    Raises:
        ModelError: the model cannot be read, the layout cannot express it, `out` holds something else, or the disk is
            full. ConfigError: an unknown format.
    """
    if format not in get_args(Format):
        raise ConfigError(f"unknown format {format!r}; known are {', '.join(get_args(Format))}")
    source, out = Path(model), Path(out)
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise ModelError(f"{out} is there already, and is no earlier export: choose another folder, or remove it")
    found = jina_v5.read(source, attn_implementation="eager") if jina_v5.is_published(source) else read_bundle(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(out, ModelError), replaced_folder(out) as temporary:
        jina_v5.write(found, temporary)
        write_json(temporary / MARK, {"format": format, "limbeck": __version__})
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
    return out
