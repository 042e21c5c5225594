"""A classifier as a folder: classifier.json, which people can read, and head.safetensors.  K: labels, D: dims."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from limbeck import __version__
from limbeck.classify.head import Head
from limbeck.encode_file import parse_task, task_words
from limbeck.encoding.vectors import Model, Task, check_fingerprint
from limbeck.errors import ConfigError, ModelError
from limbeck.folders import full_disk_named, replaced_folder, sync_file

MANIFEST, HEAD = "classifier.json", "head.safetensors"
FORMAT = 1


class Manifest(BaseModel):
    """What classifier.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = FORMAT
    kind: Literal["few-shot", "zero-shot"]
    model: str  # its name
    fingerprint: str  # of that model for that task: `Encoder.fingerprint_of`
    task: str | None  # as on a command line; None = a model without adapters
    dim: int = Field(gt=0)  # of the vectors: the first so many numbers
    labels: list[str] | list[int] = Field(min_length=2)  # in the order of the head's rows
    temperature: float = Field(gt=0)
    calibrated: bool  # whether examples chose the temperature
    examples: int = Field(ge=0)  # that it was made from
    limbeck: str = __version__  # that wrote it
    settings: dict[str, Any] = {}  # for people: how it was fitted
    report: dict[str, Any] | None = None  # `report.Report` of held-out examples


@dataclass(frozen=True, eq=False)
class Classifier:
    """A head, and which vectors it takes."""

    head: Head
    manifest: Manifest

    @property
    def task(self) -> Task:
        """What to encode texts for."""
        return None if self.manifest.task is None else parse_task(self.manifest.task)

    @classmethod
    def of(cls, model: Model, head: Head, *, task: Task, **known: Any) -> Classifier:
        """A classifier on a model's vectors. task: a settled one; known: further fields of `Manifest`."""
        return cls(
            head,
            Manifest(
                model=str(model.spec.name),
                fingerprint=model.fingerprint_of(task),
                task=task_words(task),
                dim=head.dim,
                labels=list(head.labels),  # type: ignore[arg-type]  # of one type
                temperature=head.temperature,
                **known,
            ),
        )

    def check_model(self, model: Model) -> None:
        """Raise ModelError when the vectors of another model would be classified."""
        check_fingerprint(
            model,
            self.task,
            self.manifest.fingerprint,
            what="the classifier",
            made_with=self.manifest.model,
            again="limbeck classify train MODEL EXAMPLES --out FOLDER",
        )

    def save(self, folder: str | Path) -> Path:
        """Write the folder; an earlier classifier there is replaced, whole or not at all.

        Raises ConfigError as `check_free`, DataError for a full disk.
        """
        out = Path(folder)
        check_free(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(out), replaced_folder(out) as temporary:
            tensors = {"weight": np.ascontiguousarray(self.head.weight), "bias": np.ascontiguousarray(self.head.bias)}
            (temporary / HEAD).write_bytes(save(tensors))  # by itself, safetensors makes files for their owner alone
            text = json.dumps(self.manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
            (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
            for name in (HEAD, MANIFEST):
                sync_file(temporary / name)
        return out

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """Read what `save` wrote. Raises ModelError: no classifier there, torn, or of a newer limbeck."""
        path = Path(folder)
        if not (path / MANIFEST).is_file():
            raise ModelError(
                f"{folder} is no classifier, it has no {MANIFEST}: make one with "
                f"limbeck classify train MODEL EXAMPLES --out {folder}"
            )
        try:
            body = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if isinstance(body, dict) and isinstance(body.get("format"), int) and body["format"] > FORMAT:
                raise ModelError(
                    f"{folder} has format {body['format']}, written by limbeck {body.get('limbeck')}; this is "
                    f"{__version__}, which knows format {FORMAT}: update limbeck, or train it again"
                )
            made = Manifest.model_validate(body)
            tensors = load_file(str(path / HEAD))
            weight, bias = (tensors[name].astype(np.float32) for name in ("weight", "bias"))
            if weight.shape != (len(made.labels), made.dim) or bias.shape != (len(made.labels),):
                raise ValueError(
                    f"{len(made.labels)} labels and {made.dim} dims, but weights {list(weight.shape)} and biases "
                    f"{list(bias.shape)}"
                )
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ValueError("weights with NaN or infinity")
        except (OSError, ValueError, KeyError, ValidationError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"the classifier {folder} cannot be read ({reason}): train it again") from None
        return cls(Head(tuple(made.labels), weight, bias, made.temperature), made)


def check_free(out: Path) -> None:
    """Raise ConfigError where a classifier would replace anything but a classifier."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise ConfigError(f"{out} is there, and is no classifier: name a new folder, or one that holds a classifier")
