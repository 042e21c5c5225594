"""What every test has."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Each stage of a run looks for garbage: to go through all modules took half of the time of small runs."""
    gc.freeze()
