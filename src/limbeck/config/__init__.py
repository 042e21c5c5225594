"""The whole run as frozen pydantic models: YAML in, `extends:` and `--set a.b=c` applied, unknown keys refused.

One recipe is one file. Each field carries its unit and its reason; a default lives here and nowhere else. In the order
of a run: `data`, `models` (teacher and student), `training` (stage 1, adapters, static model), and `recipe`, which
holds them all.
"""

from limbeck.config.data import (
    Columns,
    Data,
    DebianPackagesSource,
    DerivedSource,
    DistractorsSource,
    FileSource,
    HubSource,
    PythonDocsSource,
    QueriesSource,
    QueryModel,
    Source,
)
from limbeck.config.loading import load_recipe, shipped_recipes
from limbeck.config.models import Fresh, Pruned, Rope, Scaling, Student, Teacher
from limbeck.config.recipe import Evaluate, Recipe, Tracker
from limbeck.config.training import (
    TASKS,
    Adapter,
    Adapters,
    AdapterSource,
    Average,
    ClassificationAdapter,
    ClusteringAdapter,
    Distill,
    Extend,
    Lora,
    Mining,
    Optimizer,
    RetrievalAdapter,
    Stage1,
    Static,
    Task,
    TextMatchingAdapter,
)

__all__ = [
    "TASKS",
    "Adapter",
    "AdapterSource",
    "Adapters",
    "Average",
    "ClassificationAdapter",
    "ClusteringAdapter",
    "Columns",
    "Data",
    "DebianPackagesSource",
    "DerivedSource",
    "Distill",
    "DistractorsSource",
    "Evaluate",
    "Extend",
    "FileSource",
    "Fresh",
    "HubSource",
    "Lora",
    "Mining",
    "Optimizer",
    "Pruned",
    "PythonDocsSource",
    "QueriesSource",
    "QueryModel",
    "Recipe",
    "RetrievalAdapter",
    "Rope",
    "Scaling",
    "Source",
    "Stage1",
    "Static",
    "Student",
    "Task",
    "Teacher",
    "TextMatchingAdapter",
    "Tracker",
    "load_recipe",
    "shipped_recipes",
]
