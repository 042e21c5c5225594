"""Read a transformers model: safetensors only, every weight found, and no progress bar of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from limbeck.errors import ModelError
from limbeck.model.tokenizer import first_line


def read_model(source: str | Path, **kwargs: Any) -> Any:
    """`AutoModel.from_pretrained` in fp32, from a hub id or folder.

    Raises ModelError when it cannot be read, has no safetensors, or lacks a weight: transformers would draw it at
    random and go on.
    """
    from transformers import AutoModel

    try:
        with quiet():
            model, report = AutoModel.from_pretrained(
                str(source), dtype=torch.float32, use_safetensors=True, output_loading_info=True, **kwargs
            )
    except Exception as error:  # the hub, its HTTP client, safetensors and transformers raise types of their own
        raise ModelError(f"cannot load {source}: {first_line(error)}{_advice(source)}") from error
    # a pooler belongs to the class of some backbones and is never read here; checkpoints often have none
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{source} has no weights for {len(missing)} parts of {type(model).__name__}, among them {missing[0]}: "
            "its config and its weights do not belong together"
        )
    return model


def read_config(source: str | Path, **kwargs: Any) -> Any:
    """`AutoConfig.from_pretrained`. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(source), **kwargs)
    except Exception as error:  # as above
        raise ModelError(f"cannot read the config of {source}: {first_line(error)}{_advice(source)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the bars that transformers draws while it reads or writes weights; those of a download stay."""
    from transformers.utils import logging

    def hidden(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return logging.EmptyTqdm(*args, **kwargs)

    before = logging.set_tqdm_hook(hidden)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _advice(source: str | Path) -> str:
    return "" if Path(source).is_dir() else ". Give a folder that holds it, or go online once so that it is cached"
