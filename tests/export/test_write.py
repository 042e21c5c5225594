"""Bundles of tiny random models, written in other layouts and read back by limbeck, transformers and PEFT."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from tiny_bundles import LONGEST, PROMPTS, TEXTS, THETA, make_bundle
from torch import Tensor, nn

import limbeck
from limbeck import cli
from limbeck.config import TASKS, Scaling
from limbeck.errors import ConfigError, ModelError
from limbeck.export import export
from limbeck.model import jina_v5
from limbeck.model.adapters import Adapter, merged
from limbeck.model.pretrained import read_model
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer, pad


@pytest.fixture(scope="module", params=["Qwen3", "EuroBert", "Qwen3 that sees all"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and its export."""
    folder = tmp_path_factory.mktemp("export")
    if request.param == "EuroBert":
        bundle = make_bundle(folder / "bundle", "EuroBert")
    else:
        causal: dict[str, Any] = {} if request.param == "Qwen3" else {"is_causal": False}
        bundle = make_bundle(folder / "bundle", "Qwen3", **causal)
    return bundle, export(bundle, folder / "out", format="jina-v5")


@torch.no_grad()
def vectors(backbone: nn.Module, tokenizer: Tokenizer, adapter: Adapter, prefix: str) -> Tensor:
    model = StudentModel(merged(backbone, [(adapter, 1.0)]), pooling="last").eval()
    ids, mask = pad(tokenizer.ids(TEXTS, prefix=prefix, max_tokens=LONGEST)[0], tokenizer.pad_id)
    return torch.nn.functional.normalize(model(torch.from_numpy(ids), torch.from_numpy(mask)), dim=-1)


def of_bundle(bundle: Path, task: str, prefix: str) -> Tensor:
    adapter = Adapter.load(bundle / "adapters" / task)
    return vectors(read_model(bundle), Tokenizer.load(bundle), adapter, prefix)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents_of(folder: Path) -> dict[str, Any]:
    """Bytes of each file; of safetensors what they hold, as the order of their metadata is not fixed."""
    contents: dict[str, Any] = dict(files_of(folder))
    for name in contents:
        if name.endswith(".safetensors"):
            with safe_open(str(folder / name), "pt") as file:
                tensors = {k: file.get_tensor(k).numpy().tobytes() for k in file.keys()}  # noqa: SIM118
                contents[name] = (file.metadata(), tensors)
    return contents


# -------------------------------------------------------------------------------------------- vectors


def test_an_export_read_back_gives_the_vectors_of_the_bundle(exported: tuple[Path, Path]) -> None:
    bundle, out = exported
    found = jina_v5.read(out, attn_implementation="eager")
    for task in TASKS:
        for prefix in PROMPTS.values():
            ours = vectors(found.backbone, found.tokenizer, found.adapters[task], prefix)
            torch.testing.assert_close(ours, of_bundle(bundle, task, prefix), atol=1e-5, rtol=0)


def test_load_gives_an_export_the_vectors_of_its_bundle(exported: tuple[Path, Path]) -> None:
    bundle, out = (limbeck.load(folder, device="cpu", precision="fp32") for folder in exported)
    assert (out.tasks, out.dims, out.max_tokens) == (bundle.tasks, bundle.dims, bundle.max_tokens)
    for task in ({"retrieval": 0.7, "clustering": 0.3}, *TASKS):
        np.testing.assert_allclose(out.encode(TEXTS, task=task), bundle.encode(TEXTS, task=task), atol=1e-5)
    assert out.truncated == bundle.truncated > 0


def test_transformers_and_peft_give_the_vectors_of_the_bundle_as_the_readme_says(exported: tuple[Path, Path]) -> None:
    bundle, out = exported
    config = transformers.AutoConfig.from_pretrained(out / "backbone")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for task in TASKS:
        base = transformers.AutoModel.from_pretrained(out, config=config)
        model = peft.PeftModel.from_pretrained(base, str(out / "adapters" / task)).eval()
        batch = tokenizer([f"Query: {t}" for t in TEXTS], padding=True, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"]
        with torch.no_grad():
            states = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        found = torch.nn.functional.normalize(states[torch.arange(len(TEXTS)), mask.sum(dim=1) - 1], dim=-1)
        torch.testing.assert_close(found, of_bundle(bundle, task, "Query: "), atol=1e-5, rtol=0)


def test_the_spec_that_is_read_back_is_the_bundles(exported: tuple[Path, Path]) -> None:
    spec = jina_v5.read_spec(exported[1])
    assert (spec.name, spec.dims, spec.max_tokens) == ("tiny", [8, 16, 32], LONGEST)
    assert (spec.prompts, spec.tasks, spec.inference_theta) == (PROMPTS, list(TASKS), THETA)


def test_an_export_of_an_export_is_the_same(exported: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = exported
    again = export(out, tmp_path / "again", format="jina-v5")
    assert contents_of(again) == contents_of(out)


# --------------------------------------------------------------------------------------------- layout


def test_config_json_has_the_published_fields(exported: tuple[Path, Path]) -> None:
    bundle, out = exported
    body = json.loads((out / "config.json").read_text())
    assert (body["model_type"], body["architectures"]) == ("jina_embeddings_v5", ["JinaEmbeddingsV5Model"])
    assert body["task_names"] == ["retrieval", "text-matching", "clustering", "classification"]
    assert (body["rope_theta"], body["max_position_embeddings"]) == (THETA, LONGEST)
    assert "auto_map" not in body
    model_type = json.loads((bundle / "config.json").read_text())["model_type"]
    assert body.get("is_decoder") == (False if model_type == "eurobert" else None)  # published by the encoder alone
    assert json.loads((out / "backbone" / "config.json").read_text()) == body | {"model_type": model_type}


def test_an_export_holds_the_published_files_and_no_code(exported: tuple[Path, Path]) -> None:
    files = files_of(exported[1])
    assert {f"adapters/{t}/{f}" for t in TASKS for f in ("adapter_config.json", "adapter_model.safetensors")} < set(
        files
    )
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} < set(files)
    assert {Path(f).suffix for f in files} <= {".json", ".safetensors", ".md", ".txt", ".jinja"}
    assert json.loads(files["config_sentence_transformers.json"]) == {
        "prompts": PROMPTS,
        "default_prompt_name": "document",
        "similarity_fn_name": "cosine",
    }
    adapter = json.loads(files["adapters/retrieval/adapter_config.json"])
    assert (adapter["task_type"], adapter["bias"], adapter["base_model_name_or_path"]) == (
        "FEATURE_EXTRACTION",
        "none",
        "tiny",
    )


def test_the_readme_names_the_model_its_prefixes_and_the_licences_that_hold(exported: tuple[Path, Path]) -> None:
    readme = (exported[1] / "README.md").read_text()
    for part in ("# tiny\n", "`Query: `", "`Document: `", "licence"):
        assert part in readme


def test_the_commands_in_the_readme_of_an_export_are_right(exported: tuple[Path, Path]) -> None:
    _, out = exported
    readme = (out / "README.md").read_text().replace("path/to/this/folder", str(out))
    python, shell = re.findall(r"```(?:python|sh)\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["vectors"].shape == (1, 32)
    words = shlex.split(shell)
    assert words[:3] == ["vllm", "serve", str(out)]
    assert Path(words[words.index("--hf-config-path") + 1], "config.json").is_file()
    assert json.loads(words[words.index("--hf-overrides") + 1]) == {"jina_task": "retrieval"}


def test_transformers_and_sentence_transformers_refuse_an_export(exported: tuple[Path, Path]) -> None:
    _, out = exported
    for load in (transformers.AutoModel.from_pretrained, SentenceTransformer):
        with pytest.raises(ValueError, match="jina_embeddings_v5"):
            load(str(out))


def test_a_bundle_with_some_adapters_exports_those(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", tasks=["clustering", "retrieval"])
    out = export(bundle, tmp_path / "out", format="jina-v5")
    assert json.loads((out / "config.json").read_text())["task_names"] == ["clustering", "retrieval"]
    assert sorted(p.name for p in (out / "adapters").iterdir()) == ["clustering", "retrieval"]
    assert set(jina_v5.read(out, attn_implementation="eager").adapters) == {"clustering", "retrieval"}


# --------------------------------------------------------------------------------------------- scaling

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("kind", ["Qwen3", "EuroBert"])
@pytest.mark.parametrize(
    ("scaling", "written"),
    [
        (Scaling(type="yarn", factor=4, original_max_tokens=16), YARN),
        (Scaling(type="linear", factor=3), {"rope_type": "linear", "factor": 3.0}),
    ],
)
def test_an_export_carries_the_scaling_of_its_bundle_for_old_and_new_readers(
    kind: str, scaling: Scaling, written: dict[str, Any], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", kind, tasks=["retrieval"], scaling=scaling)
    out = export(bundle, tmp_path / "out", format="jina-v5")
    wanted = limbeck.load(bundle, device="cpu", precision="fp32").encode(TEXTS, task="retrieval")
    config = out / "config.json"
    body = json.loads(config.read_text())
    assert (body["rope_theta"], body["rope_scaling"]) == (THETA, written)
    assert transformers.AutoConfig.from_pretrained(out / "backbone").rope_parameters == written | {"rope_theta": THETA}
    older = {key: value for key, value in body.items() if key != "rope_parameters"}
    oldest = older | {"rope_scaling": {"type" if k == "rope_type" else k: v for k, v in written.items()}}
    newer = {key: value for key, value in body.items() if key not in ("rope_theta", "rope_scaling")}
    for spelling in (body, older, oldest, newer):
        config.write_text(json.dumps(spelling))
        read = limbeck.load(out, device="cpu", precision="fp32")
        assert read.spec.inference_scaling == scaling
        np.testing.assert_allclose(read.encode(TEXTS, task="retrieval"), wanted, atol=1e-5)
    config.write_text(json.dumps(older | {"rope_scaling": None}))
    unscaled = limbeck.load(out, device="cpu", precision="fp32").encode(TEXTS, task="retrieval")
    assert np.abs(unscaled - wanted).max() > 1e-3


def test_a_scaling_that_limbeck_does_not_set_is_exported_as_it_is(tmp_path: Path) -> None:
    own = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    own |= {"original_max_position_embeddings": 16}
    bundle = make_bundle(tmp_path / "bundle", tasks=["retrieval"], rope_parameters=own | {"rope_theta": 10_000.0})
    out = export(bundle, tmp_path / "out", format="jina-v5")
    assert json.loads((out / "config.json").read_text())["rope_scaling"] == own
    found, wanted = (
        limbeck.load(f, device="cpu", precision="fp32").encode(TEXTS, task="retrieval") for f in (out, bundle)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        ({"kind": "Bert", "tasks": ()}, "BertModel; the jina-v5 layout is possible for Qwen3 and EuroBERT only"),
        ({"tasks": ()}, "tiny has no adapters.*train one"),
        ({"pooling": "mean"}, "pools by mean.*last token"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}},
            "RoPE of dynamic scaling.*take yarn or linear",
        ),
    ],
)
def test_what_the_layout_cannot_express_is_refused_with_the_reason(
    bundle: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = make_bundle(tmp_path / "bundle", **bundle)
    with pytest.raises(ModelError, match=message):
        export(source, tmp_path / "out", format="jina-v5")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    adapter = Adapter.load(bundle / "adapters" / "retrieval")
    Adapter(adapter.factors, adapter.rank, adapter.alpha, base="0" * 16).save(bundle / "adapters" / "retrieval")
    with pytest.raises(ModelError, match="retrieval was trained on another base"):
        export(bundle, tmp_path / "out", format="jina-v5")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a limbeck bundle"):
        export(tmp_path / "absent", tmp_path / "out", format="jina-v5")


def test_an_unknown_format_is_an_error_that_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown format 'gguf'; known are .*jina-v5, onnx"):
        export(tmp_path, tmp_path / "out", format="gguf")  # type: ignore[arg-type]


def test_only_an_earlier_export_or_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", tasks=["retrieval"])
    precious, empty = tmp_path / "precious", tmp_path / "empty"
    precious.mkdir()
    (precious / "config.json").write_text('{"model_type": "jina_embeddings_v5"}')
    empty.mkdir()
    (tmp_path / "file").touch()
    for taken in (bundle, precious, tmp_path / "file"):
        with pytest.raises(ModelError, match="is no earlier export: choose another folder"):
            export(bundle, taken, format="jina-v5")
    assert [p.name for p in precious.iterdir()] == ["config.json"]
    out = export(bundle, empty, format="jina-v5")
    (out / "left.json").touch()
    export(bundle, out, format="jina-v5")
    assert "left.json" not in files_of(out)


def test_an_export_may_replace_the_export_that_it_reads(tmp_path: Path) -> None:
    out = export(make_bundle(tmp_path / "bundle", tasks=["retrieval"]), tmp_path / "out", format="jina-v5")
    before = contents_of(out)
    assert contents_of(export(out, out, format="jina-v5")) == before


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", tasks=["retrieval"])
    out = export(bundle, tmp_path / "out", format="jina-v5")
    before = files_of(out)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Adapter, "save", full)
    with pytest.raises(ModelError, match="the disk is full"):
        export(bundle, out, format="jina-v5")
    assert files_of(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "out"]


# ---------------------------------------------------------------------------------------- command line


def test_the_command_writes_the_export_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = make_bundle(tmp_path / "bundle", tasks=["retrieval"]), tmp_path / "new" / "out"
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(bundle), "--format", "jina-v5", "--out", str(out)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"wrote {out}")
    assert jina_v5.is_published(out)


@pytest.mark.parametrize(("layout", "code"), [("gguf", 2), ("jina-v5", 1)])
def test_a_layout_or_model_that_there_is_not_ends_the_command(layout: str, code: int, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(tmp_path), "--format", layout, "--out", str(tmp_path / "out")])
    assert ended.value.code == code
