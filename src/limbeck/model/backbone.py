"""The transformer under the student: loaded, drawn at random, built fresh from a teacher's tokens, or pruned.

Every way ends in a plain transformers model of a native architecture, so that whatever loads transformers models
loads the student: Qwen3 for a fresh decoder, the backbone's own class for a pretrained one, and for a pruned BERT
the same layers with rotary instead of absolute positions (`JinaEmbeddingsV3Model`, which is exactly that).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from limbeck.config import Fresh, Pruned, Student
from limbeck.errors import ConfigError, ModelError
from limbeck.model import rope
from limbeck.model.pretrained import read_config, read_model
from limbeck.model.tokenizer import Tokenizer, first_line


@dataclass(frozen=True)
class Backbone:
    """A transformer, its tokenizer, and the config it was made from (with the training theta)."""

    model: nn.Module
    tokenizer: Tokenizer
    config: Any


@dataclass(frozen=True)
class Size:
    """Weights of a transformer. `layers` is what costs compute per token; a token embedding is a look-up."""

    total: int
    embeddings: int

    @property
    def layers(self) -> int:
        """Weights outside the token embedding."""
        return self.total - self.embeddings


def size(model: nn.Module) -> Size:
    """Count a transformer's weights."""
    embeddings = model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    # A pooler belongs to the class of some backbones, is never read here, and costs no compute per token.
    counted = (p.numel() for name, p in model.named_parameters() if not name.startswith("pooler."))
    return Size(total=sum(counted), embeddings=embeddings)


def reads_teacher(student: Student) -> bool:
    """Whether `build` copies anything from the teacher: tokens, embeddings or layers."""
    if student.init == "pruned":
        return not (student.pruned and student.pruned.source)
    copies = student.init == "fresh" and student.fresh is not None and student.fresh.token_embeddings == "pca"
    return copies or not (student.tokenizer or (student.model and student.init != "fresh"))


def build(student: Student, teacher: str | Path | None, *, seed: int, attention: str = "sdpa") -> Backbone:
    """Make the student's backbone as its recipe says, with the training theta, in fp32 on the CPU.

    Args:
        student: that section of the recipe.
        teacher: hub id or folder of the teacher, where the student `reads_teacher`; None = it has no files, being an
            endpoint.
        seed: draws every weight that is not copied.
        attention: implementation, as transformers names it.

    Raises ModelError when a model cannot be read, ConfigError when a setting does not fit it.
    """
    if teacher is None and reads_teacher(student):
        raise ConfigError(
            f"student.init: {student.init} copies from the teacher, which is an endpoint and shows no files: set "
            "student.init=pretrained with student.model, or name a student.tokenizer and draw the token embeddings "
            "(student.fresh.token_embeddings=random)"
        )
    tokenizer = tokenizer_of(student, teacher)
    _check_same_tokens(student, tokenizer, teacher)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # transformers draws initial weights from the global generator
        if student.init == "fresh":
            model: Any = _fresh(_given(student.fresh), tokenizer, teacher, student)
        elif student.init == "pruned":
            model = _pruned(_given(student.pruned), teacher, student)
        else:
            model = _transformers(student)
    width = model.config.hidden_size
    if student.dims[-1] != width:
        raise ConfigError(f"student.dims must end with the backbone's width {width}, got {student.dims}")
    if len(tokenizer) > (rows := len(model.get_input_embeddings().weight)):
        raise ConfigError(f"the tokenizer has {len(tokenizer)} tokens, the backbone embeds {rows}: they are no pair")
    model.set_attn_implementation(attention)
    rope.verify(model, student.rope.train_theta, student.rope.train_scaling)
    # Some architectures come with a pooler that we never read. It stays (so that other loaders find it), but is not
    # trained: weight decay would move it, and DDP would wait for its gradient.
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)
    return Backbone(model, tokenizer, model.config)


def tokenizer_of(student: Student, teacher: str | Path | None) -> Tokenizer:
    """The student's tokenizer: its own, the backbone's, or the teacher's. Raises ModelError."""
    return Tokenizer.load(
        _tokenizer_source(student, teacher),
        revision=_revision(student),
        trust_remote_code=student.trust_remote_code,
    )


def student_config(student: Student) -> Any:
    """The transformers config of a `pretrained` or `random` student, before any weight exists.

    Raises ModelError when it cannot be read, ConfigError when student.config does not fit it.
    """
    overrides = dict(student.config or {})
    if student.init == "random" and "model_type" in overrides:
        config = _whole(overrides)
    else:
        try:
            given = {"revision": student.revision, "trust_remote_code": student.trust_remote_code}
            config = _override(without_dropout(read_config(str(student.model), **given)), overrides)
        except ModelError as error:
            if "model_type" not in overrides:
                raise ModelError(f"{error}; or put the whole config into student.config") from None
            config = _whole(overrides)
    return rope.with_rope(config, student.rope.train_theta, student.rope.train_scaling)


def _whole(body: dict[str, Any]) -> Any:
    """A config from nothing but `model_type` and the fields given."""
    from transformers import AutoConfig

    fields = {k: v for k, v in body.items() if k != "model_type"}
    try:
        _check_fields(AutoConfig.for_model(body["model_type"]), fields)
        return AutoConfig.for_model(**body)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"student.config does not fit: {first_line(error)}") from error


def without_dropout(config: Any) -> Any:
    """A config, changed: no dropout in training, whatever its architecture calls it; `student.config` can set it again.

    A student that fits millions of soft targets does not overfit; each mask would be noise in what it is taught, and on
    a CPU to draw them took more than half of a step.
    """
    for name, value in vars(config).items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _override(config: Any, fields: dict[str, Any] | None) -> Any:
    """A copy of a transformers config with other values. Raises ConfigError for an unknown field or a wrong value."""
    if not fields:
        return config
    _check_fields(config, fields)
    body = config.to_dict() | fields
    if "num_hidden_layers" in fields and "layer_types" not in fields:
        body.pop("layer_types", None)  # one entry a layer: derived anew
    try:
        return type(config).from_dict(body)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"student.config does not fit {type(config).__name__}: {first_line(error)}") from error


def _check_fields(config: Any, fields: dict[str, Any]) -> None:
    # transformers keeps a key that it does not know and reads it nowhere; is_causal is read without being declared
    unknown = [k for k in fields if not hasattr(config, k) and k != "is_causal"]
    if unknown:
        hint = ": set student.rope.train_theta" if "rope_theta" in unknown else ""
        raise ConfigError(f"student.config names {unknown}, which {type(config).__name__} does not have{hint}")


def _transformers(student: Student) -> nn.Module:
    from transformers import AutoModel

    config = student_config(student)
    if student.init == "random":
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=student.trust_remote_code)
    return read_model(
        str(student.model),
        revision=student.revision,
        config=config,
        trust_remote_code=student.trust_remote_code,
    )


def _fresh(shape: Fresh, tokenizer: Tokenizer, teacher: str | Path | None, student: Student) -> nn.Module:
    """A Qwen3-style decoder whose token embeddings start as the teacher's, reduced to its width."""
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=max(32768, student.max_tokens),
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        # The embedding of the padding token gets no gradient, so it must not be the closing token as well.
        pad_token_id=tokenizer.pad_id if tokenizer.pad_id != tokenizer.closing_id else None,
        eos_token_id=tokenizer.closing_id,
        bos_token_id=None,
        use_cache=False,
        tie_word_embeddings=True,
    )
    config.is_causal = shape.causal  # read by transformers' mask builder; saved with the config
    config = _override(config, student.config)
    model: Any = Qwen3Model(rope.with_rope(config, student.rope.train_theta, student.rope.train_scaling))
    if shape.token_embeddings == "pca":
        source = load_plain(_given(teacher)).get_input_embeddings().weight.detach()
        if source.shape[0] < len(tokenizer):
            raise ModelError(
                f"the teacher has {source.shape[0]} token embeddings, its tokenizer {len(tokenizer)} tokens: "
                "set student.fresh.token_embeddings=random"
            )
        reduced = pca(source[: len(tokenizer)], shape.hidden_size)
        with torch.no_grad():
            # Scaled to the spread of a fresh embedding's rows: RMSNorm removes the scale of what a layer reads, not
            # of the residual stream that it writes into.
            weight = model.get_input_embeddings().weight
            weight.copy_(reduced / reduced.std() * config.initializer_range)
    return model


def source_depth(shape: Pruned, teacher: str | Path | None) -> int:
    """How many layers the transformer has that is pruned. Raises ModelError."""
    return int(read_config(shape.source or _given(teacher)).num_hidden_layers)


def _pruned(shape: Pruned, teacher: str | Path | None, student: Student) -> nn.Module:
    """Chosen layers of a transformer, in the order given."""
    if isinstance(shape.layers, int):
        raise ConfigError(
            f"student.pruned.layers: {shape.layers} does not say which layers: `limbeck.model.pruning.choose_layers` "
            "finds them"
        )
    source = load_plain(shape.source or _given(teacher))
    stack = layers(source)
    bad = [i for i in shape.layers if not 0 <= i < len(stack)]
    if bad:
        raise ConfigError(f"student.pruned.layers names {bad}, the source has layers 0 to {len(stack) - 1}")
    if source.config.model_type == "bert" and shape.rope:
        model: Any = rotary_bert(source, shape.layers, student)
    else:
        config = copy.deepcopy(source.config)
        config.num_hidden_layers = len(shape.layers)
        if getattr(config, "layer_types", None):  # one entry a layer, where the architecture has such a list
            config.layer_types = [config.layer_types[i] for i in shape.layers]
        config = _override(without_dropout(config), student.config)
        model = type(source)(rope.with_rope(config, student.rope.train_theta, student.rope.train_scaling))
        kept = {k: v for k, v in source.state_dict().items() if ".layers." not in k and ".layer." not in k}
        kept = {k: v for k, v in kept.items() if not k.startswith(("layers.", "layer."))}
        model.load_state_dict(kept, strict=False)
        for place, (new, old) in enumerate(zip(layers(model), shape.layers, strict=True)):
            try:
                new.load_state_dict(stack[old].state_dict())
            except RuntimeError as error:  # e.g. ModernBERT's first layer has no norm before its attention
                raise ConfigError(
                    f"layer {old} of {type(source).__name__} cannot be layer {place} of the student: "
                    f"{' '.join(str(error).split())}. Choose other student.pruned.layers"
                ) from None
    if shape.pool_attention:
        average_in_last_layer(model)
    return model


# BERT's names for the parts of a layer → the rotary architecture's. Shapes are the same.
_BERT_TO_ROTARY = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "post_mlp_layernorm",
}


def rotary_bert(source: nn.Module, layers: list[int], student: Student) -> nn.Module:
    """BERT layers with RoPE in place of absolute positions, every other weight copied.

    The mean of the absolute position vectors is kept, folded into the one token-type vector, so that the embedding
    norm sees the inputs it was trained on.
    """
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    old: Any = source.config
    config = JinaEmbeddingsV3Config(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=old.num_attention_heads,
        intermediate_size=old.intermediate_size,
        hidden_act=old.hidden_act,
        layer_norm_eps=old.layer_norm_eps,
        max_position_embeddings=max(8192, student.max_tokens),
        pad_token_id=old.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config = _override(without_dropout(config), student.config)
    model = JinaEmbeddingsV3Model(rope.with_rope(config, student.rope.train_theta, student.rope.train_scaling))
    weights = source.state_dict()
    copied: dict[str, Tensor] = {
        "embeddings.word_embeddings.weight": weights["embeddings.word_embeddings.weight"],
        "embeddings.token_type_embeddings.weight": weights["embeddings.token_type_embeddings.weight"][:1]
        + weights["embeddings.position_embeddings.weight"].mean(dim=0, keepdim=True),
    }
    for part in ("weight", "bias"):
        copied[f"embeddings.LayerNorm.{part}"] = weights[f"embeddings.LayerNorm.{part}"]
        for new, layer in enumerate(layers):
            for theirs, ours in _BERT_TO_ROTARY.items():
                copied[f"layers.{new}.{ours}.{part}"] = weights[f"encoder.layer.{layer}.{theirs}.{part}"]
    missing, unexpected = model.load_state_dict(copied, strict=False)
    left = [m for m in missing if not m.startswith("pooler.")]
    if left or unexpected:
        raise ModelError(f"the source is not a plain BERT: no weights for {left}, no place for {unexpected}")
    return model


def average_in_last_layer(model: nn.Module) -> None:
    """Make the last layer's attention start as an average over the text, so that its last token starts as the mean.

    Queries and keys near 0 attend evenly; value and output maps that are the identity, scaled, pass the mean of the
    states through; a silent feed-forward part leaves it. Training then moves all of them. It spares last-token
    pooling the steps in which it would have to learn to gather (a student that pools by mean starts there).
    """
    layer: Any = layers(model)[-1]
    attention: Any = getattr(layer, "self_attn", None)
    mlp: Any = getattr(layer, "mlp", None)
    parts: list[Any] = [getattr(attention, f"{n}_proj", None) for n in "qkvo"]
    query, key, value, output = parts
    down: Any = getattr(mlp, "fc2", None) or getattr(mlp, "down_proj", None)
    if down is None or None in parts or len({*value.weight.shape, *output.weight.shape}) != 1:
        raise ConfigError(
            f"student.pruned.pool_attention needs square value and output maps, as multi-head attention of a BERT has; "
            f"{type(model).__name__} has others: leave it out"
        )
    # Where queries and keys are normalised, their scale is in that norm.
    scales = [getattr(attention, f"{n}_norm", None) or linear for n, linear in (("q", query), ("k", key))]
    with torch.no_grad():
        for part in scales:
            part.weight.mul_(0.1)  # not 0: both at 0 would have no gradient
        value.weight.copy_(torch.eye(len(value.weight)))
        output.weight.copy_(4 * torch.eye(len(output.weight)))  # the mean outweighs the last token's own state
        down.weight.zero_()
        for linear in (*parts, down):
            if linear.bias is not None:
                linear.bias.zero_()


def pca(rows: Tensor, width: int) -> Tensor:
    """The leading principal components of centred rows. rows: [N, H]; width ≤ H → [N, width], fp32."""
    if width > rows.shape[1]:
        raise ConfigError(f"{rows.shape[1]} values a token cannot give {width}: set student.fresh.hidden_size lower")
    centred = rows.float() - rows.float().mean(dim=0, keepdim=True)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    return centred @ vectors.flip(dims=(1,))[:, :width]


def layers(model: nn.Module) -> nn.ModuleList:
    """The stack of layers, wherever the architecture keeps it. Raises ModelError."""
    for path in ("layers", "encoder.layer", "encoder.layers", "h", "model.layers"):
        node: Any = model
        for part in path.split("."):
            node = getattr(node, part, None)
        if isinstance(node, nn.ModuleList):
            return node
    raise ModelError(f"no stack of layers found in {type(model).__name__}: pruning does not know this architecture")


def load_plain(source: str | Path) -> Any:
    """A transformers model from a hub id or folder, in fp32, safetensors only. Raises ModelError."""
    return read_model(source)


def _check_same_tokens(student: Student, tokenizer: Tokenizer, teacher: str | Path | None) -> None:
    """Token embeddings that are copied belong to the ids of the tokenizer they come with. Raises ConfigError."""
    reduced = student.fresh is not None and student.fresh.token_embeddings == "pca"
    if student.tokenizer is None or not (student.init == "pruned" or (student.init == "fresh" and reduced)):
        return
    source = (student.pruned.source if student.pruned else None) or _given(teacher)
    if tokenizer.hf.get_vocab() != Tokenizer.load(source).hf.get_vocab():
        raise ConfigError(
            f"student.tokenizer {student.tokenizer} has other tokens than {source}, whose token embeddings are copied: "
            "leave it out, or draw them with student.fresh.token_embeddings=random"
        )


def _tokenizer_source(student: Student, teacher: str | Path | None) -> str | Path:
    if student.tokenizer:
        return student.tokenizer
    if student.init == "pruned" and student.pruned and student.pruned.source:
        return student.pruned.source
    return _given(teacher) if student.init in ("fresh", "pruned") or not student.model else student.model


def _revision(student: Student) -> str:
    return (student.revision if student.tokenizer is None and student.init in ("pretrained", "random") else None) or (
        "main"
    )


def _given(value: Any) -> Any:
    if value is None:
        raise ConfigError("student.init names a section, or a teacher, that the recipe does not have")
    return value
