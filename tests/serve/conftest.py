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

        def start(of: Any = None, *, keys: str | None = None, classifiers: Any = None, **settings: Any) -> Any:
            app = make_app(of or encoder, Settings(**settings), classifiers=classifiers or {}, keys=keys)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(serve: Serve) -> Any:
    return serve()
