"""A bundle or an export → a repository of a hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from limbeck.errors import ConfigError, ModelError
from limbeck.export.facts import MARK
from limbeck.model import jina_v5
from limbeck.model.bundle import MANIFEST
from limbeck.model.tokenizer import first_line

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a bundle or an export, its model card included, as one commit; the repository is made if need be.

    Args:
        folder: what to upload, all of it.
        repository: OWNER/NAME.
        private: make a new repository private; one that is there stays as it is.
        revision: branch, made if need be; None = main.
        message: of the commit; None = one that says what this is.
        endpoint: of the hub; None = $HF_ENDPOINT, or huggingface.co.

    Returns:
        The URL of the commit.

    Raises:
        ConfigError: a repository that is not OWNER/NAME. ModelError: a folder that is neither bundle nor export, a hub
        that cannot be reached or does not let this be written.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(repository):
        raise ConfigError(f"a repository is named OWNER/NAME, got {repository!r}")
    if not any((folder / mark).is_file() for mark in (MANIFEST, MARK)) and not jina_v5.is_published(folder):
        raise ModelError(
            f"{folder} is neither a bundle (it has no {MANIFEST}) nor an export (it has no {MARK}): give the folder "
            "`model` of a run, or what `limbeck export` wrote"
        )
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)  # None = as the owner's settings say
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message or f"Upload {folder.name} with limbeck",
        )
    except HFValidationError as error:
        raise ConfigError(f"the hub does not take the name {repository!r}: {first_line(error)}") from None
    except HfHubHTTPError as error:
        raise ModelError(_refused(api, repository, error)) from error
    except Exception as error:  # the hub's client and the HTTP library below it raise types of their own
        raise ModelError(_unreached(api, error)) from error
    return commit.commit_url


def _refused(api: HfApi, repository: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    owner = repository.partition("/")[0]
    if status == 401:
        return (
            f"{api.endpoint} wants to know who you are: run `hf auth login`, or set HF_TOKEN to a token that may write"
        )
    if status in (403, 404):
        return (
            f"{api.endpoint} does not let you write to {repository} (status {status}): there is no owner {owner}, or "
            f"your token may not write there; `hf auth whoami` says who you are"
        )
    return f"{api.endpoint} refused {repository} (status {status}): {error.server_message or first_line(error)}"


def _unreached(api: HfApi, error: Exception) -> str:
    cause = error.__cause__ or error  # the hub's client says which file, and its cause what happened
    return f"the upload to {api.endpoint} did not work ({first_line(cause)}): check the network, and run it again"
