"""Folders laid out like the published jina-embeddings-v5-text models, read without running any code from them.

    config.json                          the backbone's own fields, flat; model_type, task_names
    model.safetensors                    the plain backbone: Qwen3 (as in small) or EuroBERT (as in nano)
    adapters/<task>/                     LoRA, as PEFT writes it
    tokenizer.json …                     adds the special tokens that it adds by itself, and no others
    config_sentence_transformers.json    prefixes of queries and documents

A vector is the state of the last real token, at unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from limbeck.errors import ModelError
from limbeck.files import read_json, write_json
from limbeck.model import rope
from limbeck.model.adapters import Adapter, base_digest
from limbeck.model.bundle import ADAPTERS, MANIFEST, Bundle, BundleSpec
from limbeck.model.prefixes import PROMPTS, ROLES
from limbeck.model.pretrained import quiet, read_model
from limbeck.model.tokenizer import Tokenizer, first_line

MODEL_TYPE, ARCHITECTURE = "jina_embeddings_v5", "JinaEmbeddingsV5Model"
BACKBONES = {"qwen3": "Qwen3", "eurobert": "EuroBERT"}  # transformers' model_type → name
DIMS = (32, 64, 128, 256, 512, 768, 1024)  # widths that the published models were trained to be cut to

_PROMPTS = "config_sentence_transformers.json"
# Read by transformers without being declared by the config classes: theta as older versions wrote it, and whether a
# token sees only those before it
_UNDECLARED = {"rope_theta", "rope_scaling", "is_causal"}


def is_published(folder: Path) -> bool:
    """Whether a folder has this layout (and is no bundle of ours). Raises ModelError: config.json is not JSON."""
    if (folder / MANIFEST).exists() or not (folder / "config.json").is_file():
        return False
    body = _json(folder / "config.json")
    return isinstance(body, dict) and body.get("model_type") == MODEL_TYPE


def read_spec(folder: Path) -> BundleSpec:
    """What a loader needs to know beyond the weights. Raises ModelError."""
    body, config = _json(folder / "config.json"), _config(folder)
    prompts = (_json(folder / _PROMPTS).get("prompts") if (folder / _PROMPTS).is_file() else None) or {}
    width, tasks = config.hidden_size, body.get("task_names")
    narrower = {dim for dim in body.get("matryoshka_dimensions") or DIMS if dim < width}
    if not tasks:
        raise ModelError(f"{folder / 'config.json'} names no adapters: task_names must list those in adapters/")
    try:
        return BundleSpec(
            name=body.get("_name_or_path") or folder.resolve().name,
            pooling="last",
            dims=[*sorted(narrower), width],
            max_tokens=config.max_position_embeddings,
            prompts=PROMPTS | {role: prompts[role] for role in ROLES if role in prompts},
            tasks=tasks,
            inference_theta=rope.theta_of(config),
            inference_scaling=rope.scaling_of(config),
        )
    except ValueError as error:  # pydantic's
        raise ModelError(f"{folder / 'config.json'} or {_PROMPTS} does not fit: {error}") from None


def read(folder: Path, *, attn_implementation: str) -> Bundle:
    """Read such a folder, in fp32, without running any code that comes with it.

    Raises ModelError: a backbone other than Qwen3 and EuroBERT, weights that do not belong together, an adapter of
    `task_names` that is absent, torn, or made for another model.
    """
    spec, config = read_spec(folder), _config(folder)
    backbone = read_model(folder, config=config, attn_implementation=attn_implementation, trust_remote_code=False)
    if foreign := sorted(_weight_names(folder) - set(backbone.state_dict())):
        raise ModelError(
            f"{folder} has weights that {type(backbone).__name__} has no place for, among them {foreign[0]}: "
            "its config and its weights do not belong together"
        )
    rope.verify(backbone, spec.inference_theta, spec.inference_scaling)
    for task in spec.tasks:
        if not (folder / ADAPTERS / task).is_dir():
            raise ModelError(
                f"{folder / 'config.json'} names the task {task}, and there is no folder adapters/{task}: fetch it, or "
                "take the task out of task_names"
            )
    adapters = {task: Adapter.load(folder / ADAPTERS / task) for task in spec.tasks}
    marked = any(adapter.base is not None for adapter in adapters.values())
    digest = base_digest(backbone) if marked else None
    for task, adapter in adapters.items():
        adapter.check_fits(backbone, name=task, digest=digest)
    tokenizer = _AsFound.load(folder, config=config, trust_remote_code=False)
    return Bundle(backbone, tokenizer, spec, adapters)


def write(model: Bundle, folder: Path) -> None:
    """Write a model in this layout into an empty folder: data only, no Python files.

    Raises ModelError: what the layout cannot express (another backbone or pooling, dynamic scaling of RoPE, no
    adapters).
    """
    backbone: Any = model.backbone
    spec, adapters = model.spec, model.adapters
    config = rope.with_rope(backbone.config, spec.inference_theta, spec.inference_scaling)
    if config.model_type not in BACKBONES:
        raise ModelError(
            f"{spec.name} is a {type(backbone).__name__}; the jina-v5 layout is possible for "
            f"{' and '.join(BACKBONES.values())} only: those who read it know no other backbones"
        )
    if spec.pooling != "last":
        raise ModelError(f"{spec.name} pools by {spec.pooling}; who reads the jina-v5 layout takes the last token")
    if not adapters:
        raise ModelError(
            f"{spec.name} has no adapters, and in the jina-v5 layout every vector is made with one: train one "
            "(`adapters:` in the recipe), or use the bundle itself, which sentence-transformers can load"
        )
    if config.rope_parameters["rope_type"] == "dynamic":
        raise ModelError(
            f"{spec.name} has RoPE of dynamic scaling, which starts at max_position_embeddings; those who read the "
            "jina-v5 layout cut texts there: take yarn or linear scaling (student.rope.inference_scaling)"
        )
    with quiet():
        backbone.save_pretrained(str(folder))
    own = {name: getattr(config, name) for name in sorted(_declared(type(config)))}
    body = own | {
        "_name_or_path": spec.name,
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "task_names": list(adapters),
        "dtype": "float32",
        "max_position_embeddings": spec.max_tokens,  # those who read the layout cut texts there
        "matryoshka_dimensions": spec.dims,
        **_rope_of_transformers_4(config),
    }
    if config.model_type == "eurobert":
        body["is_decoder"] = False  # how vLLM tells the two backbones apart
    if hasattr(config, "is_causal"):
        body["is_causal"] = config.is_causal
    write_json(folder / "config.json", body)
    # for those who know the backbone and not MODEL_TYPE, which takes code from elsewhere
    write_json(folder / "backbone" / "config.json", body | {"model_type": config.model_type})
    model.tokenizer.hf.model_max_length = spec.max_tokens
    model.tokenizer.save(folder)
    write_json(
        folder / _PROMPTS,
        {"prompts": spec.prompts, "default_prompt_name": "document", "similarity_fn_name": "cosine"},
    )
    digest = base_digest(backbone)
    for task, adapter in adapters.items():
        replace(adapter, base=digest).save(folder / ADAPTERS / task, base_model=spec.name)
    (folder / "README.md").write_text(_readme(spec, list(adapters)), encoding="utf-8")


def _rope_of_transformers_4(config: Any) -> dict[str, Any]:
    """Theta and scaling where transformers 4 looks for them."""
    scaled = {key: value for key, value in config.rope_parameters.items() if key != "rope_theta"}
    theta = {"rope_theta": rope.theta_of(config)}
    return theta if scaled["rope_type"] == "default" else theta | {"rope_scaling": scaled}


class _AsFound(Tokenizer):
    """Adds no closing token of ours: where the tokenizer has none, the last token, which is pooled, is one of the text.

    The published code calls the tokenizer as it is.
    """

    def _pin_closing(self) -> int:
        return self._backend.encode("a").ids[-1]

    def _special_tail(self) -> list[int]:
        probe = self._backend.encode("a")
        return probe.ids[len(probe.ids) - probe.special_tokens_mask[::-1].index(0) :]


def _config(folder: Path) -> Any:
    """The config of the backbone, which the layout does not name: its weights tell. Raises ModelError."""
    from transformers import EuroBertConfig, Qwen3Config

    names = _weight_names(folder)
    if "layers.0.self_attn.q_norm.weight" in names:
        kind: Any = Qwen3Config
    elif "layers.0.mlp.gate_proj.weight" in names:
        kind = EuroBertConfig
    else:
        raise ModelError(
            f"the weights in {folder} are neither Qwen3's nor EuroBERT's, the backbones of this layout: expected "
            f"layers.0.mlp.gate_proj.weight, found {', '.join(sorted(names)[:3]) or 'none'}"
        )
    # only what such a config declares: nothing else that a file may say reaches transformers
    known = {k: v for k, v in _json(folder / "config.json").items() if k in _declared(kind) | _UNDECLARED}
    try:
        return kind(**known)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{folder / 'config.json'} does not fit {kind.__name__}: {first_line(error)}") from None


def _declared(kind: Any) -> set[str]:
    """Fields that a config class has beyond those of every transformers config."""
    from transformers import PreTrainedConfig

    return {field.name for field in fields(kind)} - {field.name for field in fields(PreTrainedConfig)}


def _weight_names(folder: Path) -> set[str]:
    """Names of the backbone's weights, as the plain backbone has them. Raises ModelError."""
    names: set[str] = set()
    try:
        for file in sorted(folder.glob("model*.safetensors")):  # several where they are large
            with safe_open(str(file), "pt") as weights:
                names |= {name.removeprefix("model.") for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights in {folder} cannot be read: {error}") from None
    return {name for name in names if not name.startswith("lm_head.")}  # predicts tokens; no part of an embedding


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


_README = """---
library_name: limbeck
pipeline_tag: sentence-similarity
tags: [feature-extraction, limbeck, matryoshka]
---

# {name}

A text-embedding model of {dim} dims with a LoRA adapter for each of: {tasks}. Written by limbeck in the layout of the
jina-embeddings-v5-text models. There is no code in this folder, and none is needed:

```python
import limbeck

model = limbeck.load("path/to/this/folder")
vectors = model.encode(["your text"], task="{task}")
```

vLLM merges one adapter when it starts. It knows the layout, but not the name `{model_type}` in `config.json`: it finds
the same settings under the backbone's own name in `backbone/`.

```sh
vllm serve path/to/this/folder --runner pooling \\
  --hf-config-path path/to/this/folder/backbone --hf-overrides '{{"jina_task": "{task}"}}'
```

transformers and sentence-transformers refuse the folder, as they do not know that name either. By hand: load the
backbone with the config in `backbone/`, its adapter with PEFT, put the prefix in front of the text, and take the state
of the last token, at unit length.

| | |
|---|---|
| prefixes | `{query}` for queries, `{document}` for all other text; limbeck adds them, vLLM does not |
| longest text | {max_tokens} tokens |
| vectors may be cut to | {dims} dims (renormalise them) |

The licences of the backbone, of the teacher and of the training texts decide how this model may be used. Weights that
came from the published jina-embeddings-v5-text models stay under CC BY-NC 4.0.
"""


def _readme(spec: BundleSpec, tasks: Sequence[str]) -> str:
    return _README.format(
        name=spec.name,
        dim=spec.dims[-1],
        tasks=", ".join(tasks),
        task=tasks[0],
        model_type=MODEL_TYPE,
        query=spec.prompts["query"],
        document=spec.prompts["document"],
        max_tokens=spec.max_tokens,
        dims=", ".join(map(str, spec.dims)),
    )
