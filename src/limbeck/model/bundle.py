"""The folder that a run ends in: what transformers and sentence-transformers read, and `limbeck.json` for the rest.

    config.json model.safetensors tokenizer.json …   the base, as transformers writes it, with the inference RoPE
    modules.json 1_Pooling/ 2_Normalize/ config_sentence_transformers.json    SentenceTransformer(folder) loads it
    adapters/<task>/                                 LoRA, as PEFT writes it, with the digest of the base it belongs to;
                                                     and its projection, where it was trained with one of its own
    router.safetensors                               which adapters suit a text, for task="auto"
    projection.safetensors                           student → teacher space
    limbeck.json                                     tasks, dims, prefixes, RoPE pair, teacher, format version
    README.md                                        model card

Only safetensors and JSON are read; never pickle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from limbeck.config import Scaling
from limbeck.errors import ModelError
from limbeck.files import read_json, write_json
from limbeck.folders import full_disk_named, replaced_folder, sync_file
from limbeck.model import rope
from limbeck.model.adapters import Adapter, base_digest
from limbeck.model.prefixes import PROMPTS, ROLES
from limbeck.model.pretrained import quiet, read_model
from limbeck.model.projection import Projection
from limbeck.model.router import Router
from limbeck.model.tokenizer import Tokenizer

FORMAT = 3  # 1 knew no adapters, 2 no scaling of RoPE
MANIFEST = "limbeck.json"
PROJECTION = "projection.safetensors"
ADAPTERS = "adapters"
ROUTER = "router.safetensors"


class TeacherNote(BaseModel):
    """Which teacher the projection leads to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    revision: str | None = None
    dim: int
    query_instruction: str = ""
    document_instruction: str = ""


class BundleSpec(BaseModel):
    """limbeck.json: what a loader needs to know beyond the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    pooling: Literal["last", "mean", "cls"]
    dims: list[int] = Field(min_length=1)  # Matryoshka prefixes, ascending; the last is the full width
    max_tokens: int
    prompts: dict[str, str] = PROMPTS
    tasks: list[str] = []  # adapters that the bundle holds
    base: str | None = None  # `base_digest` of the backbone that they belong to
    train_theta: float | None = None
    inference_theta: float | None = None
    train_scaling: Scaling | None = None
    inference_scaling: Scaling | None = None
    teacher: TeacherNote | None = None
    recipe: str | None = None  # digest of the recipe that made it
    limbeck: str | None = None  # version that wrote it

    @field_validator("prompts")
    @classmethod
    def _a_prompt_for_each_role(cls, prompts: dict[str, str]) -> dict[str, str]:
        if missing := set(ROLES) - set(prompts):
            raise ValueError(f"no prompt for {', '.join(sorted(missing))}")
        return prompts

    @field_validator("tasks")
    @classmethod
    def _names_of_folders(cls, tasks: list[str]) -> list[str]:
        if bad := [task for task in tasks if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", task) or task == "auto"]:
            raise ValueError(f"a task is named by letters, digits, - and _, and not auto; got {', '.join(bad)}")
        return tasks


class Bundle(NamedTuple):
    """What a bundle holds, but for its projection."""

    backbone: nn.Module
    tokenizer: Tokenizer
    spec: BundleSpec
    adapters: dict[str, Adapter]
    router: Router | None = None


def save_bundle(
    folder: Path,
    *,
    backbone: nn.Module,
    tokenizer: Tokenizer,
    spec: BundleSpec,
    projection: Projection | None,
    card: str | None = None,
    adapters: Mapping[str, Adapter] = {},
    projections: Mapping[str, Projection] = {},
    router: Router | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    `adapters` (by task) and `base` are written into its spec; `projections` are those of adapters that were trained
    with one of their own. Raises ModelError: an adapter of another base, or the disk is full.
    """
    digest = _check_fit(backbone, adapters)
    spec = BundleSpec.model_validate(spec.model_dump() | {"format": FORMAT, "tasks": list(adapters), "base": digest})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(folder, ModelError), replaced_folder(folder) as temporary:
        _save_backbone(backbone, spec, temporary)
        tokenizer.hf.model_max_length = spec.max_tokens
        tokenizer.save(temporary)
        _save_sentence_transformers(temporary, spec)
        if projection is not None:
            projection.save(temporary / PROJECTION)
        for task, adapter in adapters.items():
            replace(adapter, base=digest).save(temporary / ADAPTERS / task, base_model=spec.name)
        for task, own in projections.items():
            own.save(temporary / ADAPTERS / task / PROJECTION)
        if router is not None:
            router.save(temporary / ROUTER)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        write_json(temporary / MANIFEST, spec.model_dump(mode="json"))
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)


def read_spec(folder: Path) -> BundleSpec:
    """Read limbeck.json. Raises ModelError when the folder is no bundle, or one of a later format."""
    try:
        body = read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a limbeck bundle: it has no {MANIFEST}") from None
    except ValueError as error:
        raise ModelError(str(error)) from None
    if isinstance(body, dict) and isinstance(body.get("format"), int) and body["format"] > FORMAT:
        raise ModelError(f"{folder} has bundle format {body['format']}, this limbeck reads {FORMAT}: upgrade limbeck")
    try:
        return BundleSpec.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the file"
        raise ModelError(f"{folder / MANIFEST} does not fit: {where}: {first['msg']}") from None


def read_bundle(folder: Path, *, attn_implementation: str = "sdpa", trust_remote_code: bool = False) -> Bundle:
    """Read a bundle, in fp32, with the inference theta and scaling.

    Raises ModelError: a part that is absent or torn, weights that do not belong together, or an adapter that was
    trained on another base.
    """
    spec = read_spec(folder)
    backbone = read_model(folder, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code)
    if backbone.config.hidden_size != spec.dims[-1]:
        raise ModelError(
            f"{folder / MANIFEST} says vectors of {spec.dims[-1]} dims, the weights beside it give "
            f"{backbone.config.hidden_size}: they do not belong together"
        )
    rope.verify(backbone, spec.inference_theta or spec.train_theta, spec.inference_scaling or spec.train_scaling)
    adapters = {task: Adapter.load(folder / ADAPTERS / task) for task in spec.tasks}
    _check_fit(backbone, adapters)
    router = Router.load(folder / ROUTER) if (folder / ROUTER).exists() else None
    return Bundle(backbone, Tokenizer.load(folder), spec, adapters, router)


def _check_fit(backbone: nn.Module, adapters: Mapping[str, Adapter]) -> str | None:
    """Raise ModelError unless every adapter belongs to this backbone. Returns its digest, if there are adapters."""
    digest = base_digest(backbone) if adapters else None
    for task, adapter in adapters.items():
        adapter.check_fits(backbone, name=task, digest=digest)
    return digest


def _save_backbone(backbone: nn.Module, spec: BundleSpec, folder: Path) -> None:
    own: Any = backbone
    trained = own.config
    try:
        own.config = rope.with_rope(trained, spec.inference_theta, spec.inference_scaling)
        with quiet():
            own.save_pretrained(str(folder))  # as safetensors: it knows no other
    finally:
        own.config = trained


def _save_sentence_transformers(folder: Path, spec: BundleSpec) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": spec.max_tokens, "do_lower_case": False})
    modes = {"last": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": spec.dims[-1],
            **{f"pooling_mode_{mode}": key == spec.pooling for key, mode in modes.items()},
            "include_prompt": True,
        },
    )
    (folder / "2_Normalize").mkdir()
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": spec.prompts,
            "default_prompt_name": "document",  # text without a role takes the document prefix
            "similarity_fn_name": "cosine",
        },
    )
