"""A tiny model with all adapters, and servers of it in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "model"), str(Path(__file__).parent)]  # for modules that are no tests

from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402

Serve = Callable[..., Any]


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with four adapters, of 32 dims and 32 tokens."""
    teacher = save_model(tmp_path_factory.mktemp("bert"), "Bert", wordpiece())
    return adapted_bundle(
        tmp_path_factory.mktemp("served") / "model", student(init="pruned", pruned={"layers": [0, 2]}), teacher
    )


@pytest.fixture(scope="session")
def encoder(folder: Path) -> Any:
    return limbeck.load(folder, device="cpu", precision="fp32")


@pytest.fixture
def serve(encoder: Any) -> Iterator[Serve]:
    """(encoder or None, settings by name) → a client of a running application; all are closed at the end."""
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from limbeck.serve.app import make_app
    from limbeck.serve.settings import Settings

    with ExitStack() as stack:

        def start(
            of: Any = None, *, keys: str | None = None, classifiers: Any = None, indexes: Any = None, **settings: Any
        ) -> Any:
            more = {"classifiers": classifiers or {}, "indexes": indexes or {}, "keys": keys}
            app = make_app(of or encoder, Settings(**settings), **more)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="session")
def index_folder(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of four documents with fields; for one server at a time."""
    pytest.importorskip("qdrant_edge")
    from limbeck.search.index import Document, Index

    made = tmp_path_factory.mktemp("indexes") / "notes.index"
    with Index.create(made, encoder) as index:
        index.add(
            [
                Document("1", "join two tables on a key column", "Tables", {"lang": "en", "year": 2020}),
                Document("2", "split a string", fields={"lang": "en", "year": 2022}),
                Document("3", "zwei Tabellen", fields={"lang": "de", "year": 2024}),
                Document("4", "return a tuple of items"),
            ]
        )
    return made


@pytest.fixture
def client(serve: Serve) -> Any:
    return serve()
