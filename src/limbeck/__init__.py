"""Distil a large text-embedding model into a small one.

    import limbeck
    model = limbeck.load("runs/demo/model")
    vectors = model.encode(["how do I join two tables?"], task="retrieval", role="query", dim=256)

Names are imported on first use, so that `import limbeck` costs milliseconds and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.errors import LimbeckError
    from limbeck.model.encoder import Encoder
    from limbeck.model.loading import load
    from limbeck.model.spans import spans_of

__version__ = "0.1.0"  # as in pyproject.toml; a test compares the two

__all__ = ["Encoder", "LimbeckError", "__version__", "load", "spans_of"]

_HOME = {
    "Encoder": "limbeck.model.encoder",
    "LimbeckError": "limbeck.errors",
    "load": "limbeck.model.loading",
    "spans_of": "limbeck.model.spans",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """Names that tab completion offers, before and after they are imported."""
    return sorted(__all__)
