"""Pushing to a hub on this machine: what arrives is what lies in the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import TOKEN, Hub, serving
from tiny_bundles import make_bundle

from limbeck.errors import ConfigError, ModelError
from limbeck.export.hub import push


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # another protocol, to other servers
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_bundle(tmp_path_factory.mktemp("push") / "model", tasks=["retrieval"])
    (folder / "README.md").write_text("---\nlibrary_name: sentence-transformers\n---\n\n# tiny\n")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_hub_receives_every_file_of_a_bundle_its_card_included(hub: Hub, bundle: Path) -> None:
    url = push(bundle, "someone/tiny", private=True, endpoint=hub.url)
    received = hub.files["someone/tiny", "main"]
    assert received == bytes_of(bundle)
    assert {"README.md", "limbeck.json", "adapters/retrieval/adapter_model.safetensors"} <= set(received)
    assert hub.objects  # weights went as large files
    assert (url, hub.visibility, hub.messages) == (
        f"{hub.url}/someone/tiny/commit/abc",
        {"someone/tiny": "private"},
        ["Upload model with limbeck"],
    )


def test_a_branch_and_a_message_are_as_asked_and_a_repository_that_is_there_is_used(hub: Hub, bundle: Path) -> None:
    hub.visibility["someone/tiny"] = "public"
    push(bundle, "someone/tiny", revision="next", message="better", endpoint=hub.url)
    assert hub.files["someone/tiny", "next"] == bytes_of(bundle)
    assert (hub.messages, hub.visibility) == (["better"], {"someone/tiny": "public"})


def test_an_export_is_taken_by_its_mark(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "limbeck_export.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    push(tmp_path, "someone/tiny", endpoint=hub.url)
    assert hub.files["someone/tiny", "main"] == {"limbeck_export.json": b"{}", "model.onnx": b"graph"}


def test_a_folder_that_is_neither_is_refused_before_the_hub_is_asked(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("private")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="neither a bundle .*limbeck.json.* nor an export"):
            push(folder, "someone/tiny", endpoint=hub.url)
    assert hub.visibility == {} and hub.files == {}


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "https://hub/a", "/tiny", "someone/"])
def test_a_repository_is_owner_and_name(name: str, hub: Hub, bundle: Path) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        push(bundle, name, endpoint=hub.url)


def test_a_name_that_the_hub_does_not_take_is_said_to_be_one(hub: Hub, bundle: Path) -> None:
    with pytest.raises(ConfigError, match="does not take the name 'someone/a--b'"):
        push(bundle, "someone/a--b", endpoint=hub.url)


def test_without_a_token_one_is_told_how_to_get_one(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelError, match="hf auth login.*HF_TOKEN"):
        push(bundle, "someone/tiny", endpoint=hub.url)


def test_anothers_name_is_an_error_that_names_the_owner(hub: Hub, bundle: Path) -> None:
    with pytest.raises(ModelError, match="no owner nobody, or your token may not write there"):
        push(bundle, "nobody/tiny", endpoint=hub.url)


@pytest.mark.parametrize("failing", ["/storage/", "/commit/"])
def test_an_upload_that_breaks_is_an_error_and_commits_nothing(failing: str, hub: Hub, bundle: Path) -> None:
    hub.failing = failing
    with pytest.raises(ModelError, match="422|out of order"):
        push(bundle, "someone/tiny", endpoint=hub.url)
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_so(hub: Hub, bundle: Path) -> None:
    with pytest.raises(ModelError, match="did not work .*check the network"):
        push(bundle, "someone/tiny", endpoint="http://127.0.0.1:9")


def test_offline_is_an_error_that_says_so(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="offline"):
        push(bundle, "someone/tiny", endpoint=hub.url)
