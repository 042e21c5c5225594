"""A folder or a hub id → an `Encoder`. What users import as `limbeck.load`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.config import Scaling
from limbeck.errors import ConfigError, ModelError
from limbeck.machine import keep_freed_memory
from limbeck.model import jina_v5, rope, runtime
from limbeck.model.bundle import MANIFEST, read_bundle, read_spec
from limbeck.model.encoder import Encoder
from limbeck.model.packing import goes_by_text
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import first_line


def load(
    model: str | Path,
    *,
    device: str | None = None,
    precision: runtime.Precision = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    hold: int | None = None,
    max_tokens: int | None = None,
    rope_theta: float | None = None,
    rope_scaling: Scaling | Mapping[str, Any] | None = None,
    backend: runtime.Backend = "torch",
    compile: bool = False,
) -> Encoder:
    """Load a bundle, or a folder laid out like the published jina-embeddings-v5-text models.

    Args:
        model: a folder, or a hub id.
        device: "cpu", "cuda", "mps"; None = the best there is.
        precision: auto = bf16 where the device computes in it natively; fp32 for vectors that are equal everywhere.
        revision: of a hub id.
        trust_remote_code: run code that comes with the model. Off, and no bundle of ours needs it.
        hold: copies of the weights with adapters merged in that are kept at a time; None = as many as fit in about
            1 GiB, at least one.
        max_tokens: where texts are cut; None = as the bundle says.
        rope_theta: of rotary positions, > 0; None = as the bundle says.
        rope_scaling: of rotary positions, such as {"type": "yarn", "factor": 4}; None = as the bundle says.
        backend: "torch"; or "openvino" (an extra), on CPUs alone, which converts each task's weights when they are
            first used and keeps the result in the user's cache folder. Spans are always read by torch.
        compile: let torch compile the model: some seconds to a minute at the first texts, and faster from then on.

    `Encoder.runtime` says how it runs, and so does `limbeck doctor MODEL`.

    Raises ModelError that says what is missing, which adapter was trained on another base, or which theta or scaling
    the backbone does not take. ConfigError: hold < 1, theta ≤ 0, an unknown scaling, or a backend that does not go with
    the device.
    """
    scaling = _checked(max_tokens, rope_theta, rope_scaling)
    folder = _folder(model, revision)
    published = jina_v5.is_published(folder)
    spec = jina_v5.read_spec(folder) if published else read_spec(folder)
    changed = {"max_tokens": max_tokens, "inference_theta": rope_theta, "inference_scaling": scaling}
    changed = {name: value for name, value in changed.items() if value is not None}
    spec = spec.model_copy(update=changed)
    where = runtime.device_of(device)
    runtime.check_backend(backend, where, compiled=compile)  # before anything is read
    computed = runtime.precision_of(precision, where)
    if where.type == "cpu":
        keep_freed_memory()
    attention = runtime.attention_of("auto", where, spec.max_tokens, computed)
    if published:
        found = jina_v5.read(folder, attn_implementation=attention)
    else:
        found = read_bundle(folder, attn_implementation=attention, trust_remote_code=trust_remote_code)
    rope.set_rope(found.backbone, rope_theta, scaling)
    rope.forget_lengths(found.backbone)
    known = (where.type, attention, computed, backend, compile) == ("cpu", "sdpa", "fp32", "torch", False)
    if known and goes_by_text(found.backbone):  # in bf16 the passes over single texts cost what padding would
        import limbeck.model.attention  # noqa: F401  # makes the name known to transformers

        found.backbone.set_attn_implementation(runtime.BY_TEXT)  # type: ignore[operator]
    return Encoder(
        StudentModel(found.backbone, pooling=spec.pooling),
        found.tokenizer,
        spec,
        device=where,
        precision=precision,
        folder=folder,
        adapters=found.adapters,
        router=found.router,
        hold=hold,
        altered=" ".join(f"{name}={value}" for name, value in changed.items()),
        backend=backend,
        compile=compile,
    )


def _checked(max_tokens: int | None, theta: float | None, scaling: Any) -> Scaling | None:
    if max_tokens is not None and max_tokens < 2:
        raise ConfigError(f"max_tokens must be at least 2, got {max_tokens}")
    if theta is not None and not 0 < theta < math.inf:
        raise ConfigError(f"rope_theta must be above 0, got {theta:g}; models are trained with 10,000 and more")
    if scaling is None or isinstance(scaling, Scaling):
        return scaling
    try:
        return Scaling.model_validate(scaling)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["rope_scaling", *map(str, first["loc"])])
        raise ConfigError(f"{where}: {first['msg']}, got {first['input']!r}") from None


def _folder(model: str | Path, revision: str | None) -> Path:
    path = Path(model)
    if path.is_dir():
        return path
    if (path.is_absolute() or str(model).count("/") != 1) or path.exists():
        raise ModelError(f"{model} is neither a folder with {MANIFEST} nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), revision=revision))
    except Exception as error:  # the hub and its HTTP client raise types of their own
        raise ModelError(
            f"there is no folder {model}, and the hub did not give it ({first_line(error)}): check the name, or fetch "
            f"it once with a network by `hf download {model}`"
        ) from error
