"""Recipes: reading, `extends:`, `--set`, validation, saving."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.config import Columns, Recipe, load_recipe, shipped_recipes
from limbeck.errors import ConfigError


def smallest(**changes: Any) -> dict[str, Any]:
    """A recipe with nothing that has a default."""
    return {
        "name": "tiny",
        "data": {"sources": [{"type": "python-docs"}]},
        "teacher": {"model": "some/teacher", "dim": 8},
        "student": {"init": "fresh", "fresh": {}, "dims": [2, 4]},
        "distill": {"steps": 3},
        **changes,
    }


def write(path: Path, body: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.yaml", smallest())


# ------------------------------------------------------------------------------------- shipped recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize("name", ["jina-v5-small", "jina-v5-nano"])
def test_a_value_of_the_jina_recipes_that_is_not_published_is_marked_as_ours(name: str) -> None:
    # Facts of the published models; what else a recipe sets for training must carry the mark.
    published = {
        "name", "description", "type", "model", "dim", "query_instruction", "document_instruction", "precision: bf16",
        "parameters", "init", "pooling", "dims", "max_tokens: 32768", "max_tokens: 8192", "inference_theta", "steps",
        "log_every", "keep_checkpoints", "compile", "attention", "extends",
    }  # fmt: skip
    section, whole = "", shipped_recipes()[name].read_text()
    for line in whole.splitlines():
        text = line.strip()
        if line and not line[0].isspace() and not text.startswith("#"):
            section = text.partition(":")[0]
        indent = len(line) - len(line.lstrip())
        if section == "data" and indent != 2 or text.startswith("#") or not text or "ours" in text:
            continue
        if section == "adapters":  # one mark for all of stage 2, under its name
            assert "# ours: steps, batch sizes, rates, temperatures and sources of all four" in whole
            continue
        key, _, value = text.partition(":")
        value = value.partition(" #")[0].strip()
        is_section = not value
        is_shape = section == "student" and indent == 4 and key != "train_theta"
        known = key in published or f"{key}: {value}" in published
        assert is_section or is_shape or known, f"{name}: say why {text!r}"


def test_the_jina_recipes_have_the_published_dims_context_and_teacher() -> None:
    small, nano = load_recipe("jina-v5-small"), load_recipe("jina-v5-nano")
    assert (small.student.dims, small.student.max_tokens) == ([32, 64, 128, 256, 512, 768, 1024], 32768)
    assert (nano.student.dims, nano.student.max_tokens) == ([32, 64, 128, 256, 512, 768], 8192)
    assert small.teacher == nano.teacher
    assert small.teacher.dim == 2560
    assert small.data == nano.data
    for recipe in (small, nano):
        rope = recipe.student.rope
        assert rope.train_theta and rope.inference_theta and rope.train_theta < rope.inference_theta


def test_the_nano_recipe_leaves_no_value_of_the_small_backbone_behind() -> None:
    small, nano = load_recipe("jina-v5-small").student.config, load_recipe("jina-v5-nano").student.config
    assert small is not None and nano is not None
    own = yaml.safe_load(shipped_recipes()["jina-v5-nano"].read_text())["student"]["config"]
    assert set(own) == set(small) == set(nano)


# --------------------------------------------------------------------------------------------- reading


def test_a_recipe_is_found_by_shipped_name_and_by_path(tiny: Path) -> None:
    assert load_recipe("jina-v5-small").name == "jina-v5-small"
    assert load_recipe(tiny) == load_recipe(str(tiny))


def test_an_unknown_recipe_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'nonsense': .*jina-v5-nano, jina-v5-small"):
        load_recipe("nonsense")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "is not valid YAML"),
        (b"- a\n- b\n", "must hold a mapping of sections, got list"),
        (b"", "must hold a mapping of sections, got NoneType"),
        (b"name: caf\xe9", "is not valid YAML"),  # Latin-1
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"bad.yaml {message}"):
        load_recipe(path)


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", ".001", "1E-3", "10e-4"])
def test_a_number_may_be_written_in_any_usual_way(tmp_path: Path, written: str) -> None:
    text = yaml.safe_dump(smallest()) + f"evaluate: {{queries: 5}}\nthreads: 2\nseed: 1\ndescription: {written!r}\n"
    path = tmp_path / "r.yaml"
    path.write_text(text)
    recipe = load_recipe(path, [f"student.config={{initializer_range: {written}}}"])
    assert recipe.student.config == {"initializer_range": 0.001}
    assert recipe.description == written  # quoted: stays a text


def test_on_off_and_no_are_texts_and_not_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(smallest()) + "evaluate: {untrained: false}\n")
    recipe = load_recipe(path, ["distill.compile=off", "data.sources=[{type: debian-packages, languages: [no, da]}]"])
    assert recipe.distill.compile == "off"
    assert recipe.data.sources[0].languages == ["no", "da"]
    assert recipe.evaluate.untrained is False
    recipe.save(tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


# --------------------------------------------------------------------------------------------- extends


def test_extends_merges_sections_and_replaces_values_and_lists(tiny: Path) -> None:
    changed = {"extends": "tiny.yaml", "name": "b", "distill": {"log_every": 7}, "student": {"dims": [4]}}
    recipe = load_recipe(write(tiny.with_name("b.yaml"), changed))
    assert (recipe.name, recipe.distill.steps, recipe.distill.log_every) == ("b", 3, 7)
    assert recipe.student.dims == [4]
    assert recipe.teacher == load_recipe(tiny).teacher


def test_extends_reaches_shipped_recipes_and_chains(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"extends": "jina-v5-nano", "name": "a", "seed": 1})
    recipe = load_recipe(write(tmp_path / "b.yaml", {"extends": "a.yaml", "name": "b"}))
    assert (recipe.name, recipe.seed) == ("b", 1)
    assert recipe.student.model == "EuroBERT/EuroBERT-210m"


def test_extends_is_relative_to_the_file_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base.yaml", smallest(seed=1))
    write(tmp_path / "sub" / "base.yaml", smallest(seed=2))
    child = write(tmp_path / "sub" / "child.yaml", {"extends": "base.yaml"})
    monkeypatch.chdir(tmp_path)
    assert load_recipe(child).seed == 2


def test_a_circular_extends_is_an_error_that_shows_the_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"extends": "b.yaml"})
    write(tmp_path / "b.yaml", {"extends": "a.yaml"})
    with pytest.raises(ConfigError, match=r"circular extends: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_recipe(tmp_path / "a.yaml")


def test_a_recipe_that_extends_itself_is_circular(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="circular"):
        load_recipe(write(tmp_path / "a.yaml", {"extends": "a.yaml"}))


def test_extends_takes_one_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extends must name one recipe"):
        load_recipe(write(tmp_path / "a.yaml", {"extends": ["x", "y"]}))


# ----------------------------------------------------------------------------------------------- --set


def test_set_changes_values_lists_and_items_of_lists(tiny: Path) -> None:
    recipe = load_recipe(
        tiny,
        [
            "distill.steps=9",
            "student.dims=[1, 2, 4]",
            "student.dims.0=2",
            "student.dims.1=3",
            "data.sources.0.max_rows=5",
            "distill.optimizer.learning_rate=2e-3",
            "teacher.query_instruction=a = b",
        ],
    )
    assert recipe.distill.steps == 9
    assert recipe.student.dims == [2, 3, 4]
    assert recipe.data.sources[0].max_rows == 5
    assert recipe.distill.optimizer.learning_rate == 0.002
    assert recipe.teacher.query_instruction == "a = b"


def test_set_makes_sections_that_the_file_does_not_have(tiny: Path) -> None:
    assert load_recipe(tiny, ["student.rope.inference_theta=5"]).student.rope.inference_theta == 5


def test_set_to_nothing_is_null(tiny: Path) -> None:
    assert load_recipe(tiny, ["data.near_duplicate_threshold="]).data.near_duplicate_threshold is None


def test_the_last_set_wins_and_set_wins_over_extends(tiny: Path) -> None:
    child = write(tiny.with_name("c.yaml"), {"extends": "tiny.yaml", "seed": 1})
    assert load_recipe(child, ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expects a.b=value, got 'seed'"),
        ("=3", "expects a.b=value"),
        ("seed.a=3", "seed.a is not inside a section"),
        ("seed=5", None),
        ("distill.steps.a.b=1", "'a' is not inside a section"),
        ("student.dims.7=1", "student.dims.7 is not inside a section"),
        ("student.dims=[1, 2", "is not valid YAML"),
        ("student.dim=[1, 2]", "student.dim: unknown key"),
    ],
)
def test_a_set_that_does_not_fit_is_named(tmp_path: Path, override: str, message: str | None) -> None:
    tiny = write(tmp_path / "tiny.yaml", smallest(seed=1))
    if message is None:
        load_recipe(tiny, [override])
    else:
        with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            load_recipe(tiny, [override])


def test_set_does_not_leak_into_the_next_load(tiny: Path) -> None:
    load_recipe(tiny, ["student.dims.0=1", "data.sources.0.name=other"])
    assert load_recipe(tiny).student.dims == [2, 4]


# ------------------------------------------------------------------------------------------ validation


def test_an_unknown_key_is_an_error_with_its_place(tmp_path: Path) -> None:
    body = smallest(distill={"steps": 3, "optimizer": {"learning_rat": 1}})
    with pytest.raises(ConfigError, match=r"distill\.optimizer\.learning_rat: unknown key"):
        load_recipe(write(tmp_path / "r.yaml", body))


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    body = smallest(teacher={"model": "m", "dim": 0}, distill={"steps": "many"}, name="a/b")
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path / "r.yaml", body))
    for place in ("name:", "teacher.dim:", "distill.steps:"):
        assert place in str(caught.value)
    assert "got 'many'" in str(caught.value)


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    body = smallest(teacher={"model": "m"})
    with pytest.raises(ConfigError, match=r"teacher\.dim: Field required"):
        load_recipe(write(tmp_path / "r.yaml", body))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"init": "fresh", "dims": [2]}}, "init: fresh needs `fresh:`"),
        ({"student": {"init": "pretrained", "dims": [2]}}, "init: pretrained needs `model:`"),
        ({"student": {"init": "fresh", "fresh": {}, "dims": [4, 2]}}, "dims must be positive and ascending"),
        ({"student": {"init": "fresh", "fresh": {}, "dims": [2, 2]}}, "dims must be positive and ascending"),
        ({"student": {"init": "fresh", "fresh": {}, "dims": []}}, "student.dims"),
        ({"distill": {"steps": 1, "matryoshka_weights": [1.0]}}, "has 1 values, student.dims has 2"),
        ({"teacher": {"type": "openai", "model": "m", "dim": 2}}, "needs `base_url`"),
        ({"data": {"sources": [{"type": "python-docs"}, {"type": "python-docs"}]}}, "source names must differ"),
        ({"data": {"sources": []}}, "data.sources"),
        ({"data": {"sources": [{"type": "carrier-pigeon"}]}}, "carrier-pigeon"),
        ({"data": {"sources": [{"type": "python-docs"}], "heldout_fraction": 1}}, "heldout_fraction"),
    ],
)
def test_values_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path / "r.yaml", smallest(**changes)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"query": "q"},
        {"document": "d"},
        {"query": "q", "document": "d", "text": "t"},
        {"text": "t", "negatives": "n"},
        {"query": "q", "document": "d", "labels": "l"},
    ],
)
def test_columns_that_make_no_example_are_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="(a pair needs|map either|go(es)? with)"):
        Columns(**columns)


def test_a_recipe_cannot_be_changed_once_it_is_read(tiny: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(tiny).seed = 3


# ---------------------------------------------------------------------------------- saving and digests


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_saved_recipe_reads_back_equal_with_an_equal_digest(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["seed=7", "description=1e5 naïve 文"])
    recipe.save(tmp_path / "new" / "recipe.yaml")
    again = load_recipe(tmp_path / "new" / "recipe.yaml")
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_a_text_that_looks_like_a_number_is_saved_as_a_text(tiny: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny, ["teacher.revision='123e4567'"])
    recipe.save(tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml").teacher.revision == "123e4567"


def test_a_digest_is_about_values_and_not_about_how_the_file_is_written(tiny: Path) -> None:
    body = dict(reversed(list(smallest().items()))) | {"seed": 0}  # 0 is the default
    assert load_recipe(write(tiny.with_name("other.yaml"), body)).digest() == load_recipe(tiny).digest()


def test_a_digest_of_sections_changes_with_those_sections_only(tiny: Path) -> None:
    recipe, changed = load_recipe(tiny), load_recipe(tiny, ["distill.steps=4"])
    assert recipe.digest("data", "teacher") == changed.digest("data", "teacher")
    assert recipe.digest("data", "distill") != changed.digest("data", "distill")
    assert recipe.digest() != changed.digest()


def test_a_digest_is_the_same_in_another_process(tiny: Path) -> None:
    code = f"from limbeck.config import load_recipe; print(load_recipe({str(tiny)!r}).digest())"
    env = os.environ | {"PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == load_recipe(tiny).digest()


def test_the_run_folder_is_named_after_the_recipe_unless_it_is_given() -> None:
    assert Recipe.model_validate(smallest()).out_dir == Path("runs/tiny")
    assert Recipe.model_validate(smallest(out="elsewhere")).out_dir == Path("elsewhere")
