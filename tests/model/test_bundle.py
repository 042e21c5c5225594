"""The folder on disk: whole or absent, safetensors and JSON only, and refused when it cannot be understood."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny_models import spec_of, student

from limbeck.errors import ModelError
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec, read_spec, save_bundle
from limbeck.model.encoder import load


@pytest.fixture
def section():
    return student(init="pruned", pruned={"layers": [0, 2]})


@pytest.fixture
def bundle(make_bundle, section, bert: Path) -> Path:
    return make_bundle(section, bert)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_bundle_holds_nothing_but_json_safetensors_and_a_card(bundle: Path) -> None:
    assert {Path(name).suffix for name in files_of(bundle)} <= {".json", ".safetensors", ".md", ".txt"}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
        assert name in files_of(bundle)


def test_saving_the_same_model_twice_gives_the_same_bytes(make_bundle, section, bert: Path) -> None:
    assert files_of(make_bundle(section, bert, name="one")) == files_of(make_bundle(section, bert, name="two"))


def test_the_manifest_is_read_as_it_was_written(bundle: Path, section) -> None:
    assert read_spec(bundle) == spec_of(section)


def test_a_bundle_takes_the_place_of_an_older_one_as_a_whole(make_bundle, section, bert: Path) -> None:
    folder = make_bundle(section, bert)
    (folder / "left-over.json").write_text("{}")
    before = load(folder, device="cpu").fingerprint
    make_bundle(student(init="pruned", pruned={"layers": [1]}), bert)
    assert not (folder / "left-over.json").exists()
    assert load(folder, device="cpu").fingerprint != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has bundle format 2, this limbeck reads 1: upgrade limbeck"),
        ({"format": 7, "something": "new"}, "has bundle format 7"),
        ({"format": "x"}, "limbeck.json does not fit: format: "),
        ({"something": "new"}, "limbeck.json does not fit: something: "),
        ({"pooling": "max"}, "limbeck.json does not fit: pooling: "),
        ({"dims": []}, "limbeck.json does not fit: dims: "),
        ({"prompts": {"query": ""}}, "limbeck.json does not fit: prompts: .*no prompt for document"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(bundle: Path, change: dict, message: str) -> None:
    file = bundle / "limbeck.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load(bundle)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null"])
def test_a_manifest_that_is_torn_is_refused_by_name(bundle: Path, content: str) -> None:
    (bundle / "limbeck.json").write_text(content)
    with pytest.raises(ModelError, match=r"limbeck\.json"):
        load(bundle)


def test_a_prompt_of_its_own_reaches_both_loaders(make_bundle, section, bert: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "frage: ", "document": ""}
    folder = make_bundle(section, bert, prompts=prompts)
    assert SentenceTransformer(str(folder), device="cpu").prompts == prompts
    assert load(folder).spec.prompts == prompts


def test_an_error_in_the_middle_leaves_the_older_bundle_and_no_litter(make_bundle, section, bert, monkeypatch) -> None:
    folder = make_bundle(section, bert)
    before = files_of(folder)

    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("limbeck.model.projection.Projection.save", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        make_bundle(student(init="pruned", pruned={"layers": [1]}), bert)
    assert files_of(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("room", [20_000, 500, 0])
def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_nothing(section, bert, tmp_path, room: int) -> None:
    built = backbones.build(section, bert, seed=1)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, kept[1]))
    try:
        with pytest.raises(ModelError, match=f"the disk is full: {tmp_path}/model could not be written"):
            save_bundle(
                tmp_path / "model",
                backbone=built.model,
                tokenizer=built.tokenizer,
                spec=spec_of(section),
                projection=None,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


_SAVE_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from tiny_models import spec_of, student
    from limbeck.model import backbone, bundle
    section = student(init="pruned", pruned={"layers": [1]})
    built = backbone.build(section, sys.argv[1], seed=1)
    written = bundle.write_json
    def dies(path, value):
        if path.name == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        written(path, value)
    bundle.write_json = dies
    bundle.save_bundle(Path(sys.argv[2]), backbone=built.model, tokenizer=built.tokenizer, spec=spec_of(section),
                       projection=None)
    """
)


def test_a_save_that_is_killed_leaves_the_older_bundle_and_the_next_one_clears_up(make_bundle, section, bert) -> None:
    folder = make_bundle(section, bert)
    before = files_of(folder)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", _SAVE_AND_DIE, str(bert), str(folder), "limbeck.json"],
        env=os.environ | {"PYTHONPATH": path},
    )
    assert killed.returncode == -signal.SIGKILL
    assert files_of(folder) == before
    assert len(list(folder.parent.iterdir())) == 2  # what the killed one left is not under the bundle's name
    make_bundle(section, bert)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_spec_without_its_parts_is_an_error() -> None:
    with pytest.raises(ValueError, match="dims"):
        BundleSpec(name="x", pooling="last", dims=[], max_tokens=8)
