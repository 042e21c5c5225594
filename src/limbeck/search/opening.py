"""Where an index is, a folder or a server, and what opens it there: engines are imported when they are needed."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import ConfigError, ModelError, StoreError
from limbeck.search.chunks import IndexModel
from limbeck.search.engine import Engine
from limbeck.search.spec import IndexSpec


def is_address(where: str | Path) -> bool:
    """Whether an index is on a server."""
    return str(where).startswith(("http://", "https://"))


def exists(where: str | Path) -> bool:
    """Whether there is an index, or something else in its place. Raises StoreError: no server answers."""
    if not is_address(where):
        path = Path(where)
        return path.exists() and not (path.is_dir() and not any(path.iterdir()))
    from limbeck.search.server import has_collection, parse_address

    return has_collection(parse_address(str(where)))


def create_engine(where: str | Path, spec: IndexSpec, shards: int | None, replicas: int | None) -> Engine:
    """An empty index. Raises ConfigError, DataError, StoreError as `Index.create`."""
    if is_address(where):
        from limbeck.search.server import ServerEngine, connect, parse_address

        address = parse_address(str(where))
        return ServerEngine.create(connect(address), address, spec, shards=shards, replicas=replicas)
    if shards or replicas:
        raise ConfigError(f"shards and replicas are those of a server; {where} is a folder")
    from limbeck.search.edge import EdgeEngine

    return EdgeEngine.create(Path(where), spec)


def open_engine(where: str | Path, wait: float) -> Engine:
    """An index that is there; `wait` as in `Index.open`. Raises StoreError."""
    if is_address(where):
        from limbeck.search.server import ServerEngine, connect, parse_address

        address = parse_address(str(where))
        return ServerEngine(connect(address), address)
    from limbeck.search.edge import EdgeEngine

    if not Path(where).exists():
        raise StoreError(f"no index {where}: make one with limbeck index MODEL CORPUS --out {where}")
    return EdgeEngine(Path(where), wait=wait)


def model_of(spec: IndexSpec, model: str | None, where: str | Path) -> IndexModel:
    """The model that an index was made with, from where it was or from `model`. Raises ModelError."""
    import limbeck

    try:
        return limbeck.load(model or spec.address)
    except limbeck.LimbeckError as error:
        if model is not None:
            raise
        raise ModelError(
            f"the model of the index {where}, {spec.model}, cannot be loaded from {spec.address} ({error}): say where "
            "it is now (--model)"
        ) from None
