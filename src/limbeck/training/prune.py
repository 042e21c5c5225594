"""The layers that a student keeps, where the recipe says only how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.config import Student
from limbeck.data.prepare import Prepared
from limbeck.data.tables import evenly
from limbeck.errors import TrainingError
from limbeck.model import backbone as backbones
from limbeck.model.prefixes import prefix
from limbeck.model.pruning import choose_layers
from limbeck.training.distill import ROLE_PREFIX
from limbeck.training.stages import Stage

if TYPE_CHECKING:
    from limbeck.training.pipeline import Pipeline

TEXTS = 600  # that layers are told by, of all sources together


def choose_student_layers(run: Pipeline) -> dict[str, Any]:
    """Choose them by training texts. Returns the facts of the stage's manifest."""
    student = run.recipe.student
    teacher = run.teacher_folder if backbones.reads_teacher(student) else None
    with run.live.status("choosing layers") as status:
        found = choose_layers(
            student,
            teacher,
            sample(run.prepared, TEXTS),
            seed=run.recipe.seed,
            precision=run.recipe.distill.precision,
            progress=lambda kept: status.update(f"choosing layers: {len(kept.layers)} left"),
        )
    return {"layers": found.layers, "agreement": found.agreement}


def with_chosen_layers(student: Student, stage: Stage) -> Student:
    """That section of the recipe, with the layers that the stage found. Raises TrainingError: it is not done."""
    done = stage.manifest()
    if done is None or student.pruned is None:
        raise TrainingError(f"the layers of the student are not chosen yet: {stage.folder} has no finished stage")
    return student.model_copy(update={"pruned": student.pruned.model_copy(update={"layers": done["layers"]})})


def sample(prepared: Prepared, count: int) -> list[str]:
    """Training texts, as many of each role of each source, evenly spaced, with what stands in front of them."""
    columns = [(split.train.texts(role), role) for split in prepared.sources.values() for role in split.train.roles]
    each = max(1, count // len(columns))
    return [prefix(ROLE_PREFIX[role]) + text for texts, role in columns for text in evenly(texts, each)]
