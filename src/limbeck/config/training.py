"""What is trained, on what and how: stage 1, the adapters, the static model."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from limbeck.config.models import TrainScaling
from limbeck.config.section import Section


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
