"""The paper's claims as experiments: for each its arms, what is held fixed, and what the claim says of the scores.

An arm is a run of the recipe that differs in a few of its lines. A contrast is one sentence about two scores that the
claim stands or falls with; all were written down before anything was run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HELD_OUT = "held-out"  # nDCG@10 of the run's own held-out queries
BITS = "held-out, 1 bit"
BIT_LOSS = "1-bit loss"  # share of HELD_OUT that is lost at one bit a dimension
RANK = "effective rank"
TOPICS = "held-out topics"  # V-measure of the run's own held-out labelled texts

Stage = Literal["distill", "adapt-retrieval", "adapt-clustering"]


def at_dims(dims: int) -> str:
    """Name of the score with vectors cut to so many dims."""
    return f"held-out, {dims} dims"


def after(point: int, points: int) -> str:
    """Name of the score at a point of the learning curve."""
    return f"held-out, {point}/{points} of the steps"


def of_source(source: str) -> str:
    """Name of the score of one source's queries."""
    return f"held-out, {source}"


@dataclass(frozen=True)
class Arm:
    """One side of an experiment."""

    name: str
    changes: tuple[str, ...] = ()  # of the recipe, as `--set` takes them
    stage: Stage = "distill"  # what is scored: the base, or an adapter on it
    as_many_tokens_as: str | None = None  # another arm, whose tokens in training this one's steps are set to match


@dataclass(frozen=True)
class Contrast:
    """`arm` by `metric` beats `against` by `against_metric`, by more than `least`.

    kind: difference = arm − against; reduction = 1 − arm / against, of something that is better when smaller.
    """

    arm: str
    against: str
    metric: str = HELD_OUT
    against_metric: str | None = None  # None = the same
    kind: Literal["difference", "reduction"] = "difference"
    least: float = 0.0
    claimed: bool = True  # False = a question of ours, which the verdict on the claim does not hang on


@dataclass(frozen=True)
class Experiment:
    """A claim and how it is put to the test."""

    name: str
    question: str
    claim: str  # as the paper has it, in our words
    recipe: str  # shipped; another can be given
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    fixed: tuple[str, ...]  # what all arms have in common, and what they do not
    changes: tuple[str, ...] = ()  # of the recipe, for all arms; the user's go on top, and then the arm's
    curve: int = 0  # points of a learning curve; 0 = none
    metrics: tuple[str, ...] = (HELD_OUT, BITS, RANK)  # shown first
    open_question: bool = False  # the paper asks it and claims nothing
    caveat: str = ""  # why this scale or these teachers may not decide it


_SEEDS = "Every seed draws its own 70% of the training texts, their order, and all weights that are drawn"
_TEXTS = "All arms of a seed have the same texts in the same steps, so as many tokens"

_RETRIEVAL = ("adapters.retrieval.nce_weight", "adapters.retrieval.distill_weight", "adapters.retrieval.spread_weight")


def _weights(nce: float, distill: float, spread: float) -> tuple[str, ...]:
    return tuple(f"{field}={value:g}" for field, value in zip(_RETRIEVAL, (nce, distill, spread), strict=True))


def _spread(weight: float) -> Arm:
    return Arm(f"GOR × {weight:g}", _weights(1, 1, weight), "adapt-retrieval")


EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        Experiment(
            name="stages",
            question="Is distillation followed by a contrastive stage better than either alone?",
            claim="Two stages beat contrastive training alone and distillation alone",
            recipe="ablate",
            arms=(
                Arm("both stages", stage="adapt-retrieval"),
                Arm("distillation only", as_many_tokens_as="both stages"),
                Arm("contrastive only", ("distill.objective=info_nce",), as_many_tokens_as="both stages"),
            ),
            contrasts=(Contrast("both stages", "contrastive only"), Contrast("both stages", "distillation only")),
            fixed=(
                "Tokens in training: the single stages have as many steps as give them the tokens of both",
                "The untrained student, its learning rate and schedule; the second stage trains a LoRA with its own",
                _SEEDS,
            ),
        ),
        Experiment(
            name="signal",
            question="Which signal teaches most: the teacher's vectors, its scores, or which texts belong together?",
            claim="Embedding distillation starts slower than InfoNCE and score distillation, and ends higher",
            recipe="ablate-fresh",
            arms=tuple(
                Arm(name, (f"distill.objective={objective}",))
                for name, objective in (
                    ("embedding", "embedding"),
                    ("scores, KL", "kl"),
                    ("scores, margin", "margin"),
                    ("InfoNCE", "info_nce"),
                )
            ),
            contrasts=(
                Contrast("InfoNCE", "embedding", after(1, 8)),
                Contrast("embedding", "InfoNCE"),
                Contrast("embedding", "scores, KL"),
                Contrast("embedding", "scores, margin"),
            ),
            fixed=(_TEXTS, "The fresh student, optimizer and learning rate; the temperature of KL and InfoNCE", _SEEDS),
            curve=8,
            changes=("distill.steps=256",),  # long enough to see who wins late
            caveat="one learning rate serves all arms, and a few thousand pairs are seen several times",
        ),
        Experiment(
            name="projection",
            question="In which space should student and teacher meet?",
            claim="Projecting the student up is best; a teacher that is projected down freely can collapse",
            recipe="ablate-fresh",
            arms=(
                Arm("student up"),
                Arm("student up, random start", ("distill.projection_init=random",)),
                Arm("teacher down, trained", ("distill.projection=teacher-down",)),
                Arm(
                    "teacher down, trained, random start",
                    ("distill.projection=teacher-down", "distill.projection_init=random"),
                ),
                Arm("teacher down, fixed PCA", ("distill.projection=teacher-pca",)),
                Arm("none, teacher cut", ("distill.projection=none",)),
            ),
            contrasts=(
                Contrast("student up", "teacher down, trained"),
                Contrast("student up", "teacher down, fixed PCA"),
                Contrast("student up", "none, teacher cut"),
                Contrast("student up", "teacher down, trained, random start", RANK),
                Contrast("student up", "student up, random start", claimed=False),
            ),
            fixed=(_TEXTS, "The fresh student, narrower than the teacher; one width, no Matryoshka", _SEEDS),
        ),
        Experiment(
            name="retrieval-losses",
            question="Does each loss of the retrieval adapter earn its place?",
            claim="InfoNCE, distillation and GOR together are best for retrieval; leaving any out usually hurts",
            recipe="ablate",
            arms=(
                Arm("all three", _weights(1, 1, 1), "adapt-retrieval"),
                Arm("without InfoNCE", _weights(0, 1, 1), "adapt-retrieval"),
                Arm("without distillation", _weights(1, 0, 1), "adapt-retrieval"),
                Arm("without GOR", _weights(1, 1, 0), "adapt-retrieval"),
                Arm("InfoNCE alone", _weights(1, 0, 0), "adapt-retrieval"),
                Arm("distillation alone", _weights(0, 1, 0), "adapt-retrieval"),
                Arm("GOR alone", _weights(0, 0, 1), "adapt-retrieval"),
            ),
            contrasts=(
                Contrast("all three", "without InfoNCE"),
                Contrast("all three", "without distillation"),
                Contrast("all three", "without GOR"),
            ),
            fixed=(_TEXTS, "The distilled base of each seed, LoRA, hard negatives, steps and learning rate", _SEEDS),
        ),
        Experiment(
            name="gor",
            question="What does the orthogonal regulariser do to float and to 1-bit vectors?",
            claim="GOR changes little at full precision, and cuts the loss at one bit by more than half",
            recipe="ablate",
            arms=(_spread(0), _spread(0.3), _spread(1), _spread(3), _spread(10)),
            contrasts=(
                Contrast("GOR × 1", "GOR × 0", BIT_LOSS, kind="reduction", least=0.5),
                Contrast("GOR × 1", "GOR × 0", least=-0.01),
            ),
            fixed=(
                _TEXTS,
                "The distilled base of each seed, InfoNCE and distillation × 1, steps, learning rate",
                _SEEDS,
            ),
            metrics=(HELD_OUT, BITS, BIT_LOSS, RANK),
            caveat="the teacher here, MiniLM, was itself trained to spread its vectors",
        ),
        Experiment(
            name="matryoshka",
            question="What does training on prefixes buy, and can prefixes under 128 dims be had without a big loss?",
            claim="With Matryoshka training the score is flat down to about 256 dims and falls faster below",
            recipe="ablate",
            arms=(
                Arm("with", ("distill.matryoshka_weights=null",)),
                Arm("full width first"),
                Arm(
                    "without",
                    (
                        "student.dims=[384]",
                        "distill.matryoshka_weights=null",
                        "adapters.retrieval.matryoshka_weights=null",
                        "adapters.clustering.matryoshka_weights=null",
                    ),
                ),
                Arm("short first", ("distill.matryoshka_weights=[2.0, 1.5, 1.0, 0.7, 0.5]",)),
                Arm("PCA under 128", ("distill.pca_below=128", "distill.matryoshka_weights=null")),
                Arm("PCA at all widths", ("distill.projection=teacher-pca", "distill.matryoshka_weights=null")),
            ),
            contrasts=(
                Contrast("with", "without", at_dims(64)),
                Contrast("with", "with", at_dims(256), HELD_OUT, least=-0.02),
                Contrast("with", "with", at_dims(256), at_dims(64), least=0.02),
                Contrast("PCA under 128", "with", at_dims(32), claimed=False),
                Contrast("short first", "with", at_dims(32), claimed=False),
            ),
            fixed=(_TEXTS, "The pruned student, optimizer and learning rate", _SEEDS),
            metrics=(HELD_OUT, at_dims(256), at_dims(128), at_dims(64), at_dims(32), BITS),
        ),
        Experiment(
            name="averaging",
            question="Is an adapter better when it is averaged with an earlier checkpoint of its own run?",
            claim="The average with an earlier checkpoint is the better adapter",
            recipe="ablate",
            arms=(
                Arm("final", ("adapters.retrieval.average.keep=final",), "adapt-retrieval"),
                Arm(
                    "averaged, half way",
                    ("adapters.retrieval.average.keep=averaged", "adapters.retrieval.average.earlier=0.5"),
                    "adapt-retrieval",
                ),
                Arm(
                    "averaged, three quarters",
                    ("adapters.retrieval.average.keep=averaged", "adapters.retrieval.average.earlier=0.75"),
                    "adapt-retrieval",
                ),
            ),
            contrasts=(Contrast("averaged, half way", "final"), Contrast("averaged, three quarters", "final")),
            fixed=("The training run, which is the same to the last bit; other checkpoints of it are taken", _SEEDS),
            caveat="the learning rate falls to zero, so late checkpoints are near each other",
        ),
        Experiment(
            name="pooling",
            question="Which token's state should stand for a text?",
            claim="Last-token pooling, which the models use, is as good as the mean and better than the first token",
            recipe="ablate-fresh",
            arms=tuple(
                Arm(
                    f"{pooling}, {'causal' if causal else 'bidirectional'}",
                    (f"student.pooling={pooling}", f"student.fresh.causal={str(causal).lower()}"),
                )
                for causal in (True, False)
                for pooling in ("last", "mean", "cls")
            ),
            contrasts=(
                Contrast("last, causal", "mean, causal", least=-0.01),
                Contrast("last, bidirectional", "mean, bidirectional", least=-0.01),
                Contrast("last, bidirectional", "cls, bidirectional"),
            ),
            fixed=(_TEXTS, "The fresh student, optimizer and learning rate", _SEEDS),
            caveat="in a causal student the first token sees no text, so `cls, causal` is chance by construction",
        ),
        Experiment(
            name="clustering-instruction",
            question="What should the teacher be told when the clustering adapter learns from it?",
            claim="A clustering instruction to the teacher gives a better clustering adapter than that of retrieval",
            recipe="ablate",
            arms=(
                Arm("no instruction", stage="adapt-clustering"),
                Arm(
                    "retrieval instruction",
                    (
                        "adapters.clustering.teacher_instruction='Given a web search query, retrieve relevant passages "
                        "that answer the query: '",
                    ),
                    "adapt-clustering",
                ),
                Arm(
                    "clustering instruction",
                    ("adapters.clustering.teacher_instruction='Identify the topic or theme of the text: '",),
                    "adapt-clustering",
                ),
            ),
            contrasts=(Contrast("clustering instruction", "retrieval instruction", TOPICS),),
            fixed=(_TEXTS, "The distilled base of each seed, LoRA, steps and learning rate", _SEEDS),
            metrics=(TOPICS, HELD_OUT, RANK),
            caveat="MiniLM was never trained to follow an instruction; to it, one is three more words of text",
        ),
        Experiment(
            name="teachers",
            question="Are two teachers, each with a projection of its own, better than one?",
            claim="The paper leaves open whether a second teacher helps",
            recipe="ablate-multilingual",
            arms=(
                Arm("both", ("distill.teacher_weights=null",)),
                Arm("first alone", ("distill.teacher_weights=[1, 0]",)),
                Arm("second alone", ("distill.teacher_weights=[0, 1]",)),
            ),
            contrasts=(
                Contrast("both", "first alone", of_source("english")),
                Contrast("both", "second alone", of_source("english")),
                Contrast("both", "first alone", of_source("translations")),
                Contrast("both", "second alone", of_source("translations")),
            ),
            fixed=(_TEXTS, "The pruned student and its tokenizer, optimizer and learning rate", _SEEDS),
            metrics=(HELD_OUT, of_source("english"), of_source("translations"), BITS),
            open_question=True,
        ),
    )
}
"""By name, in the order of the evidence page."""
