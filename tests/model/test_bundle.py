"""The folder on disk: whole or absent, safetensors and JSON only, and refused when it cannot be understood."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_adapters import adapted_bundle, adapters_of, drawn
from tiny_models import WIDTH, spec_of, student

from limbeck.config import TASKS
from limbeck.errors import ModelError
from limbeck.model import backbone as backbones
from limbeck.model.adapters import Adapter, base_digest
from limbeck.model.bundle import BundleSpec, read_bundle, read_spec, save_bundle
from limbeck.model.loading import load
from limbeck.model.router import Router


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


def test_a_bundle_of_format_2_is_read_and_saved_again_as_one_of_format_3(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "limbeck.json"
    body = json.loads(file.read_text()) | {"format": 2}
    del body["train_scaling"], body["inference_scaling"]
    file.write_text(json.dumps(body))
    old = read_bundle(bundle)
    assert (old.spec.format, old.spec.train_scaling, old.spec.inference_scaling) == (2, None, None)
    save_bundle(tmp_path / "new", backbone=old.backbone, tokenizer=old.tokenizer, spec=old.spec, projection=None)
    assert read_spec(tmp_path / "new").format == 3


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
        ({"format": 4}, "has bundle format 4, this limbeck reads 3: upgrade limbeck"),
        ({"format": 7, "something": "new"}, "has bundle format 7"),
        ({"format": "x"}, "limbeck.json does not fit: format: "),
        ({"something": "new"}, "limbeck.json does not fit: something: "),
        ({"pooling": "max"}, "limbeck.json does not fit: pooling: "),
        ({"dims": []}, "limbeck.json does not fit: dims: "),
        ({"tasks": ["../elsewhere"]}, "limbeck.json does not fit: tasks: .*a task is named by letters"),
        ({"tasks": ["auto"]}, "limbeck.json does not fit: tasks: .*and not auto; got auto"),
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


# ------------------------------------------------------------------------------------------ adapters


ROUTER = Router(("retrieval", "clustering"), torch.ones(2, WIDTH), torch.zeros(2))


@pytest.fixture
def adapted(section, bert: Path, tmp_path: Path) -> Path:
    return adapted_bundle(tmp_path / "adapted", section, bert, router=ROUTER)


def test_adapters_and_the_router_are_read_as_they_were_saved(adapted: Path, section, bert: Path) -> None:
    built = backbones.build(section, bert, seed=1).model
    expected = adapters_of(built)
    found = read_bundle(adapted)
    assert found.spec.tasks == list(found.adapters) == list(TASKS)
    assert found.spec.base == base_digest(found.backbone) == base_digest(built)
    for task, adapter in found.adapters.items():
        assert adapter.base == found.spec.base
        for name, factors in expected[task].factors.items():
            assert all(torch.equal(a, b) for a, b in zip(adapter.factors[name], factors, strict=True))
    assert found.router is not None and found.router.tasks == ROUTER.tasks
    assert {Path(name).suffix for name in files_of(adapted)} <= {".json", ".safetensors", ".md", ".txt"}


def test_the_spec_lists_the_adapters_that_are_there_whatever_it_said_before(make_bundle, section, bert: Path) -> None:
    folder = make_bundle(section, bert, tasks=["retrieval"])
    assert (read_spec(folder).tasks, read_spec(folder).base) == ([], None)
    assert load(folder, device="cpu").encode(["a"]).shape == (1, WIDTH)


def test_a_bundle_of_format_1_is_read(bundle: Path) -> None:
    file = bundle / "limbeck.json"
    body = json.loads(file.read_text()) | {"format": 1}
    del body["base"]
    file.write_text(json.dumps(body))
    assert load(bundle, device="cpu").tasks == []


def test_the_weights_are_hashed_only_where_there_are_adapters(bundle: Path, adapted: Path, monkeypatch) -> None:
    hashed: list[object] = []
    monkeypatch.setattr("limbeck.model.bundle.base_digest", lambda model: hashed.append(model) or base_digest(model))
    load(bundle, device="cpu")
    assert hashed == []
    load(adapted, device="cpu")
    assert len(hashed) == 1


def test_an_adapter_of_another_base_is_neither_saved_nor_loaded(adapted: Path, section, bert: Path, tmp_path) -> None:
    built = backbones.build(student(init="pruned", pruned={"layers": [1, 3]}), bert, seed=1)
    other = drawn(built.model)
    refused = rf"adapter clustering was trained on another base \({other.base}, this one is {read_spec(adapted).base}\)"
    mine = read_bundle(adapted)
    with pytest.raises(ModelError, match=refused):
        save_bundle(
            tmp_path / "new",
            backbone=mine.backbone,
            tokenizer=mine.tokenizer,
            spec=mine.spec,
            projection=None,
            adapters={"clustering": other},
        )
    assert not (tmp_path / "new").exists()
    other.save(adapted / "adapters" / "clustering")
    with pytest.raises(ModelError, match=refused):
        load(adapted, device="cpu")


def test_adapters_over_changed_weights_are_refused(adapted: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapted / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, adapted / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="adapter retrieval was trained on another base"):
        load(adapted, device="cpu")


def test_an_adapter_that_does_not_say_its_base_is_saved_with_it(section, bert: Path, tmp_path: Path) -> None:
    built = backbones.build(section, bert, seed=1)
    save_bundle(
        tmp_path / "model",
        backbone=built.model,
        tokenizer=built.tokenizer,
        spec=spec_of(section),
        projection=None,
        adapters={"retrieval": drawn(built.model, base=None)},
    )
    assert Adapter.load(tmp_path / "model" / "adapters" / "retrieval").base == base_digest(built.model)


@pytest.mark.parametrize("lost", ["adapters/clustering", "adapters/clustering/adapter_model.safetensors"])
def test_an_adapter_that_the_manifest_names_and_the_folder_lacks_is_an_error(adapted: Path, lost: str) -> None:
    shutil.rmtree(adapted / lost) if (adapted / lost).is_dir() else (adapted / lost).unlink()
    with pytest.raises(ModelError, match=f"{adapted}/adapters/clustering cannot be read"):
        load(adapted, device="cpu")


def test_a_torn_router_is_an_error_that_names_it(adapted: Path) -> None:
    (adapted / "router.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=f"the router {adapted}/router.safetensors cannot be read"):
        load(adapted, device="cpu")
