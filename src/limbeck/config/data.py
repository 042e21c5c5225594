"""Where the texts of a run come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from limbeck.config.section import Section


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
