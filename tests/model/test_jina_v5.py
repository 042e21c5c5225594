"""Published folders, laid out by hand from tiny random models, against transformers and PEFT called by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CORPUS, SHAPE, WIDTH, byte_level, wordpiece
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import EuroBertConfig, EuroBertModel, Qwen3Config, Qwen3Model

import limbeck
from limbeck.config import TASKS
from limbeck.errors import ModelError
from limbeck.export import export
from limbeck.files import write_json
from limbeck.model import jina_v5
from limbeck.model.adapters import Adapter, base_digest, merged
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import pad

THETA, LONGEST = 50_000.0, 24
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEXTS = ["join", CORPUS[0], "", CORPUS[1] * 3, CORPUS[2], "Split the string"]  # the fourth is cut
FIELDS = SHAPE | {"num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.1}


def closed_byte_level() -> Any:
    hf = byte_level()
    end = hf.eos_token
    hf.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, hf.eos_token_id)]
    )
    return hf


# backbone, and a tokenizer that closes a text with a token of its own or adds nothing to it
KINDS: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
    "qwen3": (Qwen3Config, Qwen3Model, byte_level),
    "qwen3 that closes": (Qwen3Config, Qwen3Model, closed_byte_level),
    "eurobert": (EuroBertConfig, EuroBertModel, wordpiece),
}


def fields_of(kind: str) -> dict[str, Any]:
    tokenizer = KINDS[kind][2]()
    sizes = {"max_position_embeddings": LONGEST, "vocab_size": len(tokenizer)}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    return FIELDS | sizes | tokens


def lay_out(folder: Path, kind: str) -> Path:
    """A published folder whose every piece of code would raise."""
    config_class, model_class, make_tokenizer = KINDS[kind]
    torch.manual_seed(1)
    config = config_class(**fields_of(kind), rope_parameters={"rope_type": "default", "rope_theta": THETA})
    base = model_class(config)
    folder.mkdir()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for task in TASKS:
        settings = peft.LoraConfig(
            r=4,
            lora_alpha=6,
            lora_dropout=0.1,
            target_modules=LINEARS,
            task_type=peft.TaskType.FEATURE_EXTRACTION,
            init_lora_weights=False,  # B is random too
        )
        again = model_class(config)
        again.load_state_dict(weights)
        peft.get_peft_model(again, settings).save_pretrained(str(folder / "adapters" / task))
    body = fields_of(kind) | {
        "model_type": "jina_embeddings_v5",
        "architectures": ["JinaEmbeddingsV5Model"],
        "task_names": list(TASKS),
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoTokenizer": [None, "code.T"]},
        "bos_token": "<s>",
        "rope_scaling": None,
        "rope_theta": THETA,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
        "_attn_implementation": "someone/kernel",
    }
    body |= {"is_decoder": False} if config_class is EuroBertConfig else {}
    write_json(folder / "config.json", body)
    make_tokenizer().save_pretrained(folder)
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text()) | {"auto_map": {"AutoTokenizer": [None, "code.T"]}}
    write_json(settings_file, settings)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": "Query: ", "document": "Document: "},
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )
    write_json(
        folder / "modules.json",
        [{"idx": 0, "name": "transformer", "path": "", "type": "code.Transformer", "kwargs": ["task"]}],
    )
    (folder / "code.py").write_text(f"open({str(folder / 'RAN')!r}, 'w').close()\nraise RuntimeError('code ran')\n")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return lay_out(tmp_path_factory.mktemp("published") / "model", request.param), request.param


@pytest.fixture
def qwen3_folder(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "model", "qwen3")


def changed(folder: Path, **values: Any) -> Path:
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | values)
    return folder


@torch.no_grad()
def by_limbeck(folder: Path, texts: list[str], task: str, role: str, attention: str = "eager") -> Tensor:
    backbone, tokenizer, spec, adapters, _ = jina_v5.read(folder, attn_implementation=attention)
    model = StudentModel(merged(backbone, [(adapters[task], 1.0)]), pooling=spec.pooling).eval()
    rows, _ = tokenizer.ids(texts, prefix=spec.prompts[role], max_tokens=spec.max_tokens)
    ids, mask = pad(rows, tokenizer.pad_id)
    return torch.nn.functional.normalize(model(torch.from_numpy(ids), torch.from_numpy(mask)), dim=-1)


class ByHand:
    """transformers and PEFT, told by this test and by nothing in config.json what the backbone is."""

    def __init__(self, folder: Path, kind: str) -> None:
        config_class, model_class, make_tokenizer = KINDS[kind]
        config = config_class(**fields_of(kind), rope_parameters={"rope_type": "default", "rope_theta": THETA})
        base = model_class(config)
        base.load_state_dict(load_file(folder / "model.safetensors"))
        first, *others = TASKS
        self.model = peft.PeftModel.from_pretrained(base, str(folder / "adapters" / first), adapter_name=first)
        for task in others:
            self.model.load_adapter(str(folder / "adapters" / task), adapter_name=task)
        self.tokenizer = make_tokenizer()
        self.model.eval()

    @torch.no_grad()
    def __call__(self, texts: list[str], task: str, prefix: str) -> Tensor:
        self.model.set_adapter(task)
        batch = self.tokenizer(
            [prefix + t for t in texts], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        mask = batch["attention_mask"]
        states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize(states[torch.arange(len(texts)), mask.sum(dim=1) - 1], dim=-1)


# -------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_vectors_of_every_task_and_role_are_those_of_transformers_and_peft(
    published: tuple[Path, str], attention: str
) -> None:
    folder, kind = published
    by_hand = ByHand(folder, kind)
    vectors = []
    for task in TASKS:
        for role, prefix in (("query", "Query: "), ("document", "Document: ")):
            ours = by_limbeck(folder, TEXTS, task, role, attention)
            torch.testing.assert_close(ours, by_hand(TEXTS, task, prefix), atol=1e-5, rtol=0)
            vectors.append(ours)
    apart = torch.stack(vectors)
    # tasks and roles give different vectors, so that none can stand in for another
    assert all((a - b).abs().amax(dim=-1).min() > 1e-3 for i, a in enumerate(apart) for b in apart[:i])


def test_load_gives_the_same_vectors(published: tuple[Path, str]) -> None:
    folder, kind = published
    by_hand = ByHand(folder, kind)
    encoder = limbeck.load(folder, device="cpu", precision="fp32")
    assert (encoder.tasks, encoder.max_tokens, encoder.dim) == (list(TASKS), LONGEST, WIDTH)
    for task in TASKS:
        found = encoder.encode(TEXTS, task=task)
        torch.testing.assert_close(torch.from_numpy(found), by_hand(TEXTS, task, "Document: "), atol=1e-5, rtol=0)
    queries = encoder.encode(TEXTS, task="retrieval", role="query")
    torch.testing.assert_close(torch.from_numpy(queries), by_hand(TEXTS, "retrieval", "Query: "), atol=1e-5, rtol=0)
    assert not (folder / "RAN").exists()


def test_padding_changes_no_vector(published: tuple[Path, str]) -> None:
    folder, _ = published
    together = by_limbeck(folder, TEXTS, "clustering", "document")
    alone = torch.cat([by_limbeck(folder, [t], "clustering", "document") for t in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_token_ids_are_those_of_the_folders_own_tokenizer(published: tuple[Path, str]) -> None:
    folder, kind = published
    _, tokenizer, spec, *_ = jina_v5.read(folder, attn_implementation="eager")
    texts = [*TEXTS, "[SEP] in <|endoftext|> a text", "日本語 🙂"]
    rows, cut = tokenizer.ids(texts, prefix="Query: ", max_tokens=spec.max_tokens)
    by_hand = KINDS[kind][2]()([f"Query: {t}" for t in texts], truncation=True, max_length=LONGEST).input_ids
    assert [r.tolist() for r in rows] == by_hand
    assert cut >= 1


def test_none_of_the_code_in_the_folder_runs(published: tuple[Path, str]) -> None:
    folder, _ = published
    jina_v5.read(folder, attn_implementation="eager")
    assert (folder / "code.py").exists()
    assert not (folder / "RAN").exists()


def test_weights_may_carry_the_prefix_and_the_head_of_a_language_model(qwen3_folder: Path) -> None:
    before = by_limbeck(qwen3_folder, TEXTS, "retrieval", "query")
    weights = {f"model.{k}": v for k, v in load_file(qwen3_folder / "model.safetensors").items()}
    head = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(weights | head, qwen3_folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(by_limbeck(qwen3_folder, TEXTS, "retrieval", "query"), before)


def test_an_imported_folder_exports_to_the_same_vectors(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = published
    out = export(folder, tmp_path / "out", format="jina-v5")
    for task in TASKS:
        before = by_limbeck(folder, TEXTS, task, "query")
        torch.testing.assert_close(by_limbeck(out, TEXTS, task, "query"), before, atol=1e-5, rtol=0)
    assert jina_v5.read_spec(out) == jina_v5.read_spec(folder)
    assert not list(out.rglob("*.py"))


# ----------------------------------------------------------------------------------- what the spec says


def test_the_spec_says_what_config_json_and_the_layout_say(published: tuple[Path, str]) -> None:
    folder, _ = published
    spec = jina_v5.read_spec(folder)
    assert (spec.name, spec.pooling, spec.tasks) == ("model", "last", list(TASKS))
    assert (spec.max_tokens, spec.inference_theta, spec.train_theta) == (LONGEST, THETA, None)
    assert spec.prompts == {"query": "Query: ", "document": "Document: "}
    assert spec.dims == [WIDTH]
    assert jina_v5.read(folder, attn_implementation="eager").spec == spec


def test_the_backbone_computes_with_the_stored_theta(published: tuple[Path, str]) -> None:
    backbone = jina_v5.read(published[0], attn_implementation="eager").backbone
    frequencies = dict(backbone.named_buffers())["rotary_emb.inv_freq"]
    torch.testing.assert_close(frequencies, THETA ** (-torch.arange(8) / 8))


@pytest.mark.parametrize(
    ("width", "dims"),
    [
        (1024, [32, 64, 128, 256, 512, 768, 1024]),
        (768, [32, 64, 128, 256, 512, 768]),
        (96, [32, 64, 96]),
        (24, [24]),
    ],
)
def test_vectors_may_be_cut_to_the_published_widths(qwen3_folder: Path, width: int, dims: list[int]) -> None:
    assert jina_v5.read_spec(changed(qwen3_folder, hidden_size=width)).dims == dims


def test_widths_that_the_config_names_win(qwen3_folder: Path) -> None:
    for named in ([8, 16, WIDTH], [16, 8]):
        assert jina_v5.read_spec(changed(qwen3_folder, matryoshka_dimensions=named)).dims == [8, 16, WIDTH]


def test_prefixes_are_the_published_ones_where_no_file_names_others(qwen3_folder: Path) -> None:
    file = qwen3_folder / "config_sentence_transformers.json"
    write_json(file, {"prompts": {"query": "Q: "}})
    assert jina_v5.read_spec(qwen3_folder).prompts == {"query": "Q: ", "document": "Document: "}
    file.unlink()
    assert jina_v5.read_spec(qwen3_folder).prompts == {"query": "Query: ", "document": "Document: "}


def test_a_folder_is_published_by_its_model_type_unless_it_is_a_bundle(qwen3_folder: Path, tmp_path: Path) -> None:
    assert jina_v5.is_published(qwen3_folder)
    write_json(qwen3_folder / "limbeck.json", {})
    assert not jina_v5.is_published(qwen3_folder)
    (qwen3_folder / "limbeck.json").unlink()
    assert not jina_v5.is_published(changed(qwen3_folder, model_type="qwen3"))
    assert not jina_v5.is_published(tmp_path)


# --------------------------------------------------------------------------------------------- errors


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        jina_v5.read(folder, attn_implementation="eager")


def test_a_config_that_is_no_json_is_an_error_that_names_it(qwen3_folder: Path) -> None:
    (qwen3_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json"):
        jina_v5.is_published(qwen3_folder)


def test_another_backbone_is_an_error_that_names_the_two(qwen3_folder: Path) -> None:
    save_file({"encoder.layer.0.attention.self.query.weight": torch.ones(2, 2)}, qwen3_folder / "model.safetensors")
    refused(qwen3_folder, "neither Qwen3's nor EuroBERT's.*found encoder.layer.0")
    (qwen3_folder / "model.safetensors").unlink()
    refused(qwen3_folder, "found none")


def test_weights_cut_short_are_an_error(qwen3_folder: Path) -> None:
    file = qwen3_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    refused(qwen3_folder, "cannot be read")


def test_a_weight_too_few_or_too_many_is_an_error_that_names_it(qwen3_folder: Path) -> None:
    weights = load_file(qwen3_folder / "model.safetensors")
    extra = {"layers.0.self_attn.q_proj.bias": torch.ones(32)}
    save_file(weights | extra, qwen3_folder / "model.safetensors", metadata={"format": "pt"})
    refused(qwen3_folder, "no place for, among them layers.0.self_attn.q_proj.bias")
    del weights["norm.weight"]
    save_file(weights, qwen3_folder / "model.safetensors", metadata={"format": "pt"})
    refused(qwen3_folder, "no weights for.*norm.weight")


def test_weights_of_another_shape_are_an_error(qwen3_folder: Path) -> None:
    refused(changed(qwen3_folder, intermediate_size=40), "cannot load")


def test_a_value_of_the_wrong_kind_is_an_error_that_names_the_file(qwen3_folder: Path) -> None:
    refused(changed(qwen3_folder, hidden_size="wide"), "config.json does not fit Qwen3Config")
    refused(
        changed(qwen3_folder, hidden_size=WIDTH, rope_scaling={"type": "yarn"}), "does not fit Qwen3Config: .*factor"
    )
    refused(changed(qwen3_folder, rope_scaling=None, task_names="retrieval"), "config.json.*does not fit")


def test_no_task_names_is_an_error(qwen3_folder: Path) -> None:
    refused(changed(qwen3_folder, task_names=[]), "task_names")


def test_a_task_without_its_folder_is_an_error_that_says_what_to_do(qwen3_folder: Path) -> None:
    refused(changed(qwen3_folder, task_names=["retrieval", "routing"]), "no folder adapters/routing: fetch it")


def test_an_adapter_of_another_model_is_an_error(qwen3_folder: Path) -> None:
    adapter = Adapter({"layers.0.self_attn.q_proj": (torch.ones(2, 16), torch.ones(32, 2))}, 2, 2.0)
    adapter.save(qwen3_folder / "adapters" / "clustering")
    refused(qwen3_folder, r"clustering changes layers.0.self_attn.q_proj \[32, 16\], which is \[32, 32\] here")


def test_an_adapter_that_names_another_base_is_an_error(qwen3_folder: Path) -> None:
    found = jina_v5.read(qwen3_folder, attn_implementation="eager")
    adapter = found.adapters["clustering"]
    for base, fits in ((base_digest(found.backbone), True), ("0" * 16, False)):
        marked = Adapter(adapter.factors, adapter.rank, adapter.alpha, base=base)
        marked.save(qwen3_folder / "adapters" / "clustering")
        if fits:
            jina_v5.read(qwen3_folder, attn_implementation="eager")
        else:
            refused(qwen3_folder, "adapter clustering was trained on another base")


def test_a_folder_without_a_tokenizer_is_an_error(qwen3_folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (qwen3_folder / file).unlink()
    refused(qwen3_folder, "no tokenizer")
