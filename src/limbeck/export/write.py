"""Bundle → the layout of other software, verified there before anybody sees it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from limbeck import __version__
from limbeck.config import Recipe, load_recipe
from limbeck.errors import ConfigError, ModelError
from limbeck.export import agreement
from limbeck.export.facts import MARK, Facts, read_facts
from limbeck.export.licences import licences_of
from limbeck.export.readme import write_list, write_readme
from limbeck.export.targets import TARGETS, Encode
from limbeck.folders import full_disk_named, replaced_folder, sync_file
from limbeck.model import jina_v5, rope
from limbeck.model.bundle import Bundle, read_bundle
from limbeck.model.encoder import Encoder
from limbeck.model.student import StudentModel

Format = Literal["sentence-transformers", "jina-v5", "onnx", "openvino"]
Precision = Literal["fp32", "int8"]


def export(
    model: str | Path, out: str | Path, *, format: Format, task: str | None = None, precision: Precision = "fp32"
) -> Path:
    """Write a model in another layout, whole or not at all; an earlier export in `out` is replaced.

    What was written is loaded in its target, and its vectors compared with the model's own, before it takes its place;
    `limbeck_export.json` in it says how near they are (see `Facts`).

    Args:
        model: folder of a bundle, or one that has the layout of the published jina-v5 models.
        out: folder to write.
        format: which layout.

            - "sentence-transformers": a plain model with one adapter merged in; a folder for each task where there are
              several and none is named;
            - "jina-v5": as jina-embeddings-v5-text, for Qwen3 and EuroBERT backbones with adapters;
            - "onnx", "openvino": one graph, with pooling and normalisation in it. All adapters are kept, and the task
              of each text is an input, unless one is named.
        task: the adapter to merge; None = all there are.
        precision: of the weights: "int8" for onnx and openvino. What it costs in retrieval is measured.

    Returns:
        `out`.

    Raises:
        ModelError: the model cannot be read, the layout cannot express it, the target is not installed, the export's
            vectors are not the model's, `out` holds something else, or the disk is full.
        ConfigError: an unknown format, task or precision, or one that the format does not have.
    """
    source, out = Path(model), Path(out)
    _check_asked(format, task, precision)
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise ModelError(f"{out} is there already, and is no earlier export: choose another folder, or remove it")
    found = jina_v5.read(source, attn_implementation="sdpa") if jina_v5.is_published(source) else read_bundle(source)
    rope.forget_lengths(found.backbone)
    if task is not None and task not in found.adapters:
        known = ", ".join(found.adapters) or "none: it has no adapters"
        raise ConfigError(f"unknown task {task!r}; known are {known}")
    run = _run_of(source)
    encoder = Encoder(
        StudentModel(found.backbone, pooling=found.spec.pooling),
        found.tokenizer,
        found.spec,
        device=torch.device("cpu"),
        precision="fp32",
        folder=source,
        adapters=found.adapters,
        router=found.router,
    )
    facts = _facts(found, encoder, source, _recipe_of(run), format, precision, task)
    out.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(out, ModelError), replaced_folder(out) as temporary:
        if TARGETS[format].keeps_adapters or len(facts.tasks) < 2:
            _write(found, encoder, facts, temporary, run)
        else:
            _write_each(found, encoder, facts, temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
    return out


def _check_asked(format: str, task: str | None, precision: str) -> None:
    if format not in TARGETS:
        raise ConfigError(f"unknown format {format!r}; known are {', '.join(TARGETS)}")
    if precision not in get_args(Precision):
        raise ConfigError(f"unknown precision {precision!r}; known are {', '.join(get_args(Precision))}")
    if precision == "int8" and not TARGETS[format].int8:
        able = ", ".join(name for name, target in TARGETS.items() if target.int8)
        raise ConfigError(f"{format} has no int8 weights: leave precision out, or choose one of {able}")
    if format == "jina-v5" and task is not None:
        raise ConfigError("the jina-v5 layout holds all adapters: leave the task out, or choose another format")
    missing = TARGETS[format].missing
    if precision == "int8":  # its loss is measured as `limbeck evaluate` measures
        missing += [name for name in ("pyarrow", "pytrec_eval") if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"the {format} format needs {', '.join(missing)}, which is not installed: pip install 'limbeck[export]'"
        )


def _run_of(source: Path) -> Path | None:
    """The folder of the run that a bundle lies in."""
    folder = source.resolve().parent
    return folder if (folder / "recipe.yaml").is_file() else None


def _recipe_of(run: Path | None) -> Recipe | None:
    """The recipe of a run; None where it is one of another version, which this one cannot read."""
    try:
        return load_recipe(run / "recipe.yaml") if run else None
    except ConfigError:
        return None


def _facts(
    found: Bundle, encoder: Encoder, source: Path, recipe: Recipe | None, format: str, precision: str, task: str | None
) -> Facts:
    spec, earlier = found.spec, read_facts(source)  # what an export knows of its model, an export of it knows too
    tasks = [task] if task else list(found.adapters)
    config = getattr(found.backbone, "config", None)
    return Facts(
        format=format,
        precision=precision,
        limbeck=__version__,
        name=f"{spec.name}-{task}" if task else spec.name,
        tasks=tasks,
        merged=task is not None or not TARGETS[format].keeps_adapters,
        prompts=spec.prompts,
        pooling=spec.pooling,
        dims=spec.dims,
        max_tokens=spec.max_tokens,
        rope_theta=rope.theta_of(config),
        rope_scaling=rope.scaling_of(config),
        fingerprint=earlier.fingerprint if earlier else encoder.fingerprint_of(task) if task else encoder.fingerprint,
        int8_embedding=precision == "int8",
        licences=earlier.licences if earlier else licences_of(source, spec, recipe),
    )


def _write_each(found: Bundle, encoder: Encoder, facts: Facts, folder: Path) -> None:
    """One export for each task, and the facts of all."""
    least = []
    for task in facts.tasks:
        (folder / task).mkdir()
        of_task = facts.model_copy(update={"name": f"{facts.name}-{task}", "tasks": [task]})
        least.append(_write(found, encoder, of_task, folder / task, None).min_cosine or 0.0)
    whole = facts.model_copy(update={"min_cosine": min(least)})
    write_list(folder, whole)
    whole.save(folder)


def _write(found: Bundle, encoder: Encoder, facts: Facts, folder: Path, run: Path | None) -> Facts:
    """Write one export into an empty folder, and compare it with the model. Returns the facts with what was found."""
    target = TARGETS[facts.format]
    if facts.merged:
        found = found._replace(adapters={task: found.adapters[task] for task in facts.tasks})

    def wanted(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
        return encoder.encode(texts, task=task, role=role)

    def written(facts: Facts) -> tuple[Encode, Facts]:
        target.write(found, facts, folder)
        encode = target.read(folder, facts)
        cosine = agreement.least_cosine(encode, wanted, facts.tasks)
        return encode, facts.model_copy(update={"min_cosine": round(cosine, 6)})

    encode, facts = written(facts)
    if facts.int8_embedding and not agreement.is_near(facts):
        for file in folder.iterdir():  # not to be written over: the first try still reads them
            file.unlink()
        encode, facts = written(facts.model_copy(update={"int8_embedding": False}))
    agreement.check(facts)
    if facts.precision == "int8":
        from limbeck.export import losses  # reads Arrow tables, which no other export needs

        loss = losses.retrieval_loss(encode, wanted, facts.tasks, *losses.sets_of(run))
        facts = facts.model_copy(update={"retrieval": loss})
    write_readme(folder, facts)
    facts.save(folder)
    return facts
