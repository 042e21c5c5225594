"""What a command line can name, each against the library that it comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "model")]  # for the modules there that are no tests

from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import FRESH, byte_level, save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402
from limbeck.config import TASKS  # noqa: E402
from limbeck.errors import ConfigError, ModelError, TeacherError  # noqa: E402
from limbeck.evaluation.subjects import open_subject, run_folder, training_of  # noqa: E402
from limbeck.export import export  # noqa: E402
from teacher.test_endpoint import DIM as SERVED_DIM  # noqa: E402
from teacher.test_endpoint import expected, serving  # noqa: E402

TEXTS = ["how do I join two tables?", "the quick brown fox"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the folder of a run, with four adapters."""
    teacher = save_model(tmp_path_factory.mktemp("qwen3"), "Qwen3", byte_level(), num_key_value_heads=1, head_dim=16)
    run = tmp_path_factory.mktemp("run")
    (run / "recipe.yaml").write_text("extends: demo\nname: one\nseed: 5\n")
    section = student(init="fresh", fresh=FRESH, dims=[8, 24], max_tokens=32)
    return adapted_bundle(run / "model", section, teacher)


@pytest.fixture(scope="module")
def sentence_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    bert = save_model(tmp_path_factory.mktemp("bert"), "Bert", wordpiece(), max_position_embeddings=64)
    words = Transformer(str(bert), max_seq_length=32)
    model = SentenceTransformer(
        modules=[words, Pooling(32, pooling_mode="mean")], prompts={"query": "query: ", "document": "passage: "}
    )
    folder = tmp_path_factory.mktemp("st")
    model.save(str(folder))
    return folder


# ----------------------------------------------------------------------------------------- bundles


@pytest.mark.parametrize("adapter", [*TASKS, "retrieval=0.7,clustering=0.3"])
def test_a_bundle_encodes_as_its_encoder_does_and_only_retrieval_has_queries(bundle: Path, adapter: str) -> None:
    subject, encoder = open_subject(str(bundle)), limbeck.load(bundle, precision="fp32")
    task = {"retrieval": 0.7, "clustering": 0.3} if "=" in adapter else adapter
    for role in ("query", "document", None):
        as_read = role if role and "retrieval" in adapter else "document"
        found = subject.encode(TEXTS, role=role, adapter=adapter)
        np.testing.assert_array_equal(found, encoder.encode(TEXTS, task=task, role=as_read))


def test_the_base_of_a_bundle_keeps_both_roles(bundle: Path) -> None:
    subject, base = open_subject(str(bundle)), limbeck.load(bundle, precision="fp32").base
    for role, as_read in (("query", "query"), ("document", "document"), (None, "document")):
        found = subject.encode(TEXTS, role=role, adapter=None)
        np.testing.assert_array_equal(found, base.encode(TEXTS, role=as_read))


def test_a_bundle_says_what_it_is(bundle: Path) -> None:
    subject = open_subject(str(bundle))
    assert (subject.kind, subject.name, subject.dim, list(subject.dims)) == ("bundle", "tiny", 24, [8, 24])
    assert list(subject.adapters) == list(TASKS)
    assert len({subject.fingerprint(adapter) for adapter in (None, *TASKS)}) == 5
    assert "fp32" in subject.fingerprint(None)


def test_a_shorter_length_is_another_model(bundle: Path) -> None:
    full, cut = open_subject(str(bundle)), open_subject(str(bundle), max_tokens=8)
    assert (full.max_tokens, cut.max_tokens) == (32, 8)
    for adapter in (None, "retrieval"):
        assert full.fingerprint(adapter) != cut.fingerprint(adapter)
    long = ["the quick brown fox jumps over the lazy dog and over the table"]
    assert not np.allclose(full.encode(long, role=None, adapter=None), cut.encode(long, role=None, adapter=None))


def test_an_adapter_that_a_bundle_lacks_is_an_error(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="unknown task 'translation'"):
        open_subject(str(bundle)).fingerprint("translation")


def test_the_published_layout_gives_the_same_vectors(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "jina"
    export(str(bundle), str(out), format="jina-v5")
    published, own = open_subject(str(out)), open_subject(str(bundle))
    assert published.kind == "jina-v5" and run_folder(published) is None
    found = published.encode(TEXTS, role="query", adapter="retrieval")
    np.testing.assert_allclose(found, own.encode(TEXTS, role="query", adapter="retrieval"), atol=1e-6)


def test_runs_that_differ_in_their_seed_and_name_have_one_group(bundle: Path) -> None:
    subject, recipe = open_subject(str(bundle)), bundle.parent / "recipe.yaml"
    first = training_of(subject)
    recipe.write_text("extends: demo\nname: two\nseed: 6\n")
    second = training_of(subject)
    recipe.write_text("extends: demo\nname: two\nseed: 6\ndistill: {steps: 7}\n")
    third = training_of(subject)
    assert first and second and third
    assert (first[1], second[1], third[1]) == (5, 6, 6)
    assert first[0] == second[0] != third[0]


# --------------------------------------------------------------------------- sentence-transformers


def test_a_sentence_transformer_is_asked_with_its_own_prompts(sentence_transformer: Path) -> None:
    from sentence_transformers import SentenceTransformer

    subject, model = open_subject(str(sentence_transformer)), SentenceTransformer(str(sentence_transformer))
    assert (subject.kind, subject.dim, subject.max_tokens) == ("sentence-transformers", 32, 32)
    for role, prompt in (("query", "query: "), ("document", "passage: "), (None, "")):
        found = subject.encode(TEXTS, role=role, adapter=None)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, model.encode(TEXTS, prompt=prompt), atol=1e-6)
    assert subject.parameters == sum(p.numel() for p in model.parameters())


def test_a_byte_of_its_folder_makes_another_model(sentence_transformer: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / sentence_transformer.name
    shutil.copytree(sentence_transformer, copy)
    before = open_subject(str(copy)).fingerprint(None)
    assert before == open_subject(str(sentence_transformer)).fingerprint(None)
    settings = copy / "config_sentence_transformers.json"
    settings.write_text(settings.read_text().replace("query: ", "ask: "))
    assert open_subject(str(copy)).fingerprint(None) != before


def test_a_model_made_for_another_distance_says_so(sentence_transformer: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    assert list(open_subject(str(sentence_transformer)).notes) == []
    model = SentenceTransformer(str(sentence_transformer))
    model.similarity_fn_name = "euclidean"
    model.save(str(tmp_path / "far"))
    [note] = open_subject(str(tmp_path / "far")).notes
    assert note == "far was made for euclidean similarity, and is scored by the cosine"


def test_a_model_without_adapters_refuses_to_be_asked_for_one(sentence_transformer: Path) -> None:
    with pytest.raises(ConfigError, match="has no adapters, so 'retrieval' cannot be asked of it"):
        open_subject(str(sentence_transformer)).encode(TEXTS, role=None, adapter="retrieval")


# ------------------------------------------------------------------------------------ static models


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A folder as model2vec writes it."""
    from model2vec import StaticModel

    tokenizer = wordpiece().backend_tokenizer
    vectors = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 6)).astype(np.float32)
    about = {"model_type": "model2vec"}
    StaticModel(vectors, tokenizer, about, normalize=False, max_length=8).save_pretrained(tmp_path / "tokens")
    return tmp_path / "tokens"


def test_a_static_model_is_told_by_its_config_and_reads_texts_alike_in_every_role(static: Path) -> None:
    from model2vec import StaticModel

    subject = open_subject(str(static))
    assert (subject.kind, subject.name, subject.dim, list(subject.dims)) == ("static", "tokens", 6, [6])
    assert subject.max_tokens == 8 and subject.parameters == StaticModel.from_pretrained(static).embedding.size
    expected = StaticModel.from_pretrained(static).encode(TEXTS, normalize=True)
    for role in ("query", "document", None):
        np.testing.assert_allclose(subject.encode(TEXTS, role=role, adapter=None), expected, atol=1e-6)
    assert open_subject(f"static:{static}").fingerprint(None) == subject.fingerprint(None)
    with pytest.raises(ConfigError, match="tokens has no adapters"):
        subject.encode(TEXTS, role=None, adapter="retrieval")


def test_a_text_without_a_known_token_still_has_a_direction_in_a_static_model(static: Path) -> None:
    found = open_subject(str(static)).encode(["", *TEXTS], role=None, adapter=None)
    np.testing.assert_array_equal(found[0], [1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_static_model_that_is_cut_shorter_or_differs_in_a_file_is_another_model(static: Path) -> None:
    whole, short = open_subject(str(static)), open_subject(str(static), max_tokens=1)
    assert short.max_tokens == 1 and short.fingerprint(None) != whole.fingerprint(None)
    np.testing.assert_allclose(
        short.encode(TEXTS[1:], role=None, adapter=None), whole.encode(["the"], role=None, adapter=None), atol=1e-6
    )
    before = whole.fingerprint(None)
    config = static / "config.json"
    config.write_text(config.read_text().replace("model2vec", "model2vec "))
    assert open_subject(f"static:{static}").fingerprint(None) != before


def test_a_folder_of_another_kind_is_no_static_model(bundle: Path) -> None:
    with pytest.raises(ModelError, match="is no static model that model2vec reads"):
        open_subject(f"static:{bundle}")


# --------------------------------------------------------------------------------------- endpoints


def test_an_endpoint_is_asked_for_its_width_first_and_then_for_vectors() -> None:
    with serving() as server:
        subject = open_subject(f"openai:some/model@{server.url}")
        assert (subject.name, subject.dim) == ("some/model", SERVED_DIM)
        np.testing.assert_allclose(subject.encode(TEXTS, role="query", adapter=None), expected(TEXTS), atol=1e-6)
    assert [r["input"] for r in server.requests[1:]] == [TEXTS]
    assert server.url.partition("//")[2] in subject.fingerprint(None)


def test_an_endpoint_that_refuses_is_explained_and_one_that_answers_nonsense_too() -> None:
    with serving(lambda _: (404, {}, {"error": {"message": "no such model"}})) as server:
        with pytest.raises(TeacherError, match="answered 404"):
            open_subject(f"openai:m@{server.url}")
    with serving(lambda _: (200, {}, {"object": "list", "model": "m", "data": []})) as server:
        with pytest.raises(TeacherError, match="BASE_URL|No embedding data"):
            open_subject(f"openai:m@{server.url}")


# --------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("runs/nothing/model", ModelError, "neither a folder of a model nor a hub id"),
        ("./nothing", ModelError, "neither a folder of a model nor a hub id"),
        ("nobody/no-such-model", ModelError, "there is no folder nobody/no-such-model, and the hub did not give it"),
        ("package:nothing", TeacherError, "no package 'nothing' is known"),
        ("openai:model", ConfigError, "expected openai:MODEL@BASE_URL"),
        ("openai:m@localhost:80", ConfigError, "expected openai:MODEL@BASE_URL"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is_expected(name: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_subject(name)
