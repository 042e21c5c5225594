"""Reading models without noise, and leaving the noise of others alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from tiny_models import student
from transformers.utils import logging

from limbeck.errors import ModelError
from limbeck.model.loading import load
from limbeck.model.pretrained import quiet, read_config, read_model


@pytest.fixture(autouse=True)
def _bars_wanted():
    shown, hidden = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.enable_progress_bar()
    yield
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    assert are_progress_bars_disabled() == hidden


def test_transformers_would_draw_bars(bert: Path, capfd) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(bert)
    assert "Loading weights" in capfd.readouterr().err


def test_making_saving_and_loading_a_model_prints_nothing(make_bundle, bert: Path, capfd) -> None:
    read_model(bert)
    for section in (student(init="pruned", pruned={"layers": [0, 2]}), student(model=str(bert))):
        load(make_bundle(section, bert), device="cpu").encode(["a"])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_bars_of_others_come_back_after_an_error_too(capfd) -> None:
    with pytest.raises(RuntimeError), quiet():
        assert list(logging.tqdm([1, 2], desc="inside")) == [1, 2]
        raise RuntimeError
    assert list(logging.tqdm([1, 2], desc="outside")) == [1, 2]
    err = capfd.readouterr().err
    assert "outside" in err and "inside" not in err


def test_a_hook_of_the_user_is_put_back() -> None:
    def hook(factory, args, kwargs):
        return factory(*args, **kwargs)

    logging.set_tqdm_hook(hook)
    try:
        with quiet():
            pass
        assert logging.set_tqdm_hook(hook) is hook
    finally:
        logging.set_tqdm_hook(None)


def test_bars_of_downloads_are_left_as_they_are() -> None:
    before = are_progress_bars_disabled()
    with quiet():
        assert are_progress_bars_disabled() == before


def test_a_config_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=f"cannot read the config of {tmp_path}"):
        read_config(tmp_path)
    with pytest.raises(ModelError, match="cannot read the config of no-one/no-such.*go online once"):
        read_config("no-one/no-such")
