"""LoRA apart from any model: kept as PEFT keeps it, merged as PEFT merges it, and refused where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import LORA, drawn
from tiny_models import SHAPE, WIDTH, student
from transformers import AutoModel, BloomConfig, BloomModel

from limbeck.config import Lora
from limbeck.errors import ConfigError, ModelError
from limbeck.model import backbone as backbones
from limbeck.model.adapters import CONFIG, WEIGHTS, Adapter, attach, base_digest, merged, taken_from


def backbone_of(kind: str, folder: Path) -> Any:
    section = student(init="pruned", pruned={"layers": [0, 2]}) if kind == "rotary BERT" else student(model=str(folder))
    return backbones.build(section, folder, seed=1).model.eval()


@pytest.fixture(params=["qwen3", "eurobert", "rotary BERT"])
def backbone(request: pytest.FixtureRequest, qwen3: Path, eurobert: Path, bert: Path) -> Any:
    return backbone_of(request.param, {"qwen3": qwen3, "eurobert": eurobert, "rotary BERT": bert}[request.param])


@pytest.fixture
def plain(eurobert: Path) -> Any:
    return AutoModel.from_pretrained(eurobert).eval()


@torch.no_grad()
def states(backbone: Any) -> torch.Tensor:
    ids = torch.arange(20).view(2, 10) + 5
    return backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


# -------------------------------------------------------------------------------------------- on disk


def test_an_adapter_is_read_as_it_was_saved(plain: Any, tmp_path: Path) -> None:
    adapter = drawn(plain)
    adapter.save(tmp_path / "adapter", base_model="tiny")
    again = Adapter.load(tmp_path / "adapter")
    assert (again.rank, again.alpha, again.dropout, again.base) == (4, 6.0, 0.1, base_digest(plain))
    assert again.factors.keys() == adapter.factors.keys()
    for name, (a, b) in adapter.factors.items():
        assert torch.equal(again.factors[name][0], a) and torch.equal(again.factors[name][1], b)
    assert sorted(f.name for f in (tmp_path / "adapter").iterdir()) == [CONFIG, WEIGHTS]


def test_peft_loads_what_is_saved_and_merging_gives_what_it_computes(backbone: Any, tmp_path: Path) -> None:
    adapter = drawn(backbone)
    adapter.save(tmp_path)
    before, ours = states(backbone), states(merged(backbone, [(adapter, 1.0)]))
    theirs = states(peft.PeftModel.from_pretrained(backbone, str(tmp_path)).eval())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - before).abs().max() > 0.1


def test_what_peft_saves_is_read(plain: Any, tmp_path: Path) -> None:
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    attached = peft.get_peft_model(plain, settings).eval()
    attached.save_pretrained(str(tmp_path))
    expected = states(attached)
    adapter = Adapter.load(tmp_path)
    assert (adapter.rank, adapter.alpha, adapter.base, len(adapter.factors)) == (3, 5.0, None, 8)
    torch.testing.assert_close(states(merged(attached.unload(), [(adapter, 1.0)])), expected, atol=1e-5, rtol=0)


@pytest.fixture
def saved(plain: Any, tmp_path: Path) -> Path:
    drawn(plain).save(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": "all"}, "expected a plain LoRA without biases, got bias='all'"),
        ({"lora_bias": True}, "got lora_bias=True"),
        ({"use_rslora": True}, "got use_rslora=True"),
        ({"use_dora": True}, "got use_dora=True"),
        ({"modules_to_save": ["norm"]}, "got modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "got rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "got alpha_pattern"),
        ({"fan_in_fan_out": True}, "got fan_in_fan_out=True"),
        ({"peft_type": "IA3"}, "got peft_type='IA3'"),
        ({"r": 8}, "says rank 8, adapter_model.safetensors holds another"),
        ({"r": None}, "must say r and lora_alpha, got None and 6.0"),
        ({"lora_alpha": "much"}, "must say r and lora_alpha, got 4 and 'much'"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(saved: Path, change: dict[str, Any], message: str) -> None:
    (saved / CONFIG).write_text(json.dumps(json.loads((saved / CONFIG).read_text()) | change))
    with pytest.raises(ModelError, match=message):
        Adapter.load(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("share", [None, 0, 0.5])
def test_an_adapter_with_a_torn_or_absent_file_is_an_error_that_names_it(saved: Path, name: str, share) -> None:
    content = (saved / name).read_bytes()
    (saved / name).unlink()
    if share is not None:
        (saved / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=str(saved)):
        Adapter.load(saved)


def test_settings_that_are_no_object_are_refused(saved: Path) -> None:
    (saved / CONFIG).write_text("[]")
    with pytest.raises(ModelError, match="expected a plain LoRA"):
        Adapter.load(saved)


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused(saved: Path, lost: str) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors[next(name for name in tensors if lost in name)]
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(ModelError, match="torn|pairs of lora_A and lora_B"):
        Adapter.load(saved)


def test_weights_that_are_no_adapter_are_refused(saved: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, saved / WEIGHTS)
    with pytest.raises(ModelError, match="does not hold pairs of lora_A and lora_B"):
        Adapter.load(saved)


# ------------------------------------------------------------------------------------------ where it belongs


def test_an_adapter_of_another_base_is_refused_by_its_digest(plain: Any) -> None:
    adapter, digest = drawn(plain), base_digest(plain)
    adapter.check_fits(plain, name="retrieval", digest=digest)
    with torch.no_grad():
        plain.norm.weight[0] += 1e-3
    other = base_digest(plain)
    assert other != digest
    with pytest.raises(
        ModelError, match=rf"adapter retrieval was trained on another base \({digest}, this one is {other}"
    ):
        adapter.check_fits(plain, name="retrieval", digest=other)
    replace(adapter, base=None).check_fits(plain, name="retrieval", digest=other)  # it does not say


def test_an_adapter_of_other_shapes_or_layers_is_refused(plain: Any) -> None:
    a, b = torch.ones(2, WIDTH), torch.ones(48, 2)
    Adapter({"layers.0.mlp.up_proj": (a, b)}, 2, 2.0).check_fits(plain, name="x")
    with pytest.raises(
        ModelError, match=r"adapter x changes layers.0.mlp.up_proj \[32, 32\], which is \[48, 32\] here"
    ):
        Adapter({"layers.0.mlp.up_proj": (a, b[:32])}, 2, 2.0).check_fits(plain, name="x")
    for name in ("layers.9.mlp.up_proj", "embed_tokens", "norm"):
        with pytest.raises(ModelError, match=f"{name} .*is not a linear layer of this model"):
            Adapter({name: (a, b)}, 2, 2.0).check_fits(plain, name="x")


def test_the_digest_of_a_base_is_that_of_its_weights(plain: Any, eurobert: Path) -> None:
    again = AutoModel.from_pretrained(eurobert, attn_implementation="eager")
    assert base_digest(again) == base_digest(plain)
    assert base_digest(again.bfloat16()) != base_digest(plain)
    assert len(base_digest(plain)) == 16


# -------------------------------------------------------------------------------------------- attached


def test_an_attached_adapter_starts_as_the_base_and_is_all_that_trains(backbone: Any) -> None:
    before = states(backbone)
    attach(backbone, LORA, "clustering", seed=1)
    torch.testing.assert_close(states(backbone), before)
    training = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert training and all(".lora_" in name and ".clustering." in name for name in training)
    assert not any("pooler" in name for name in training)
    adapter = taken_from(dict(backbone.named_parameters()), "clustering", LORA, base=None)
    assert 2 * len(adapter.factors) == len(training)
    assert all(not b.any() and a.any() for a, b in adapter.factors.values())


def test_a_seed_decides_the_start(plain: Any, eurobert: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        model = AutoModel.from_pretrained(eurobert)
        attach(model, LORA, "t", seed=seed)
        found = taken_from(dict(model.named_parameters()), "t", LORA, base=None)
        return torch.cat([a.flatten() for a, _ in found.factors.values()])

    state = torch.get_rng_state()
    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_chosen_layers_only_and_an_unknown_one_is_an_error_that_lists_the_known(plain: Any) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets names \['query'\]; .*'down_proj', 'gate_proj'"):
        attach(plain, Lora(targets=["query", "q_proj"]), "t", seed=0)
    attach(plain, Lora(targets=["q_proj"]), "t", seed=0)
    found = taken_from(dict(plain.named_parameters()), "t", LORA, base=None)
    assert list(found.factors) == [f"layers.{i}.self_attn.q_proj" for i in range(SHAPE["num_hidden_layers"])]


def test_a_stack_of_another_name_is_found() -> None:
    model = BloomModel(BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2))
    attach(model, LORA, "t", seed=0)
    found = taken_from(dict(model.named_parameters()), "t", LORA, base=None)
    assert len(found.factors) == 8 and "h.1.mlp.dense_h_to_4h" in found.factors


# --------------------------------------------------------------------------------------------- merged


def test_a_merged_weight_is_w_plus_alpha_over_rank_b_a(plain: Any) -> None:
    a, b = torch.tensor([[1.0, 2.0, *[0.0] * 30]]), torch.zeros(48, 1)
    b[0] = 3.0
    adapter = Adapter({"layers.1.mlp.gate_proj": (a, b)}, rank=1, alpha=4.0)
    expected = plain.layers[1].mlp.gate_proj.weight.detach().clone()
    expected[0, 0] += 0.5 * 4 * 3 * 1
    expected[0, 1] += 0.5 * 4 * 3 * 2
    found = merged(plain, [(adapter, 0.5)]).get_parameter("layers.1.mlp.gate_proj.weight")
    torch.testing.assert_close(found.detach(), expected)


def test_a_blend_is_the_sum_of_its_parts(plain: Any) -> None:
    one, two = drawn(plain, 1), replace(drawn(plain, 2), alpha=3.0)
    both = dict(merged(plain, [(one, 0.7), (two, 0.3)]).named_parameters())
    for name, weight in plain.named_parameters():
        expected = weight
        if (linear := name.removesuffix(".weight")) in one.factors:
            expected = weight + 0.7 * one.delta(linear) + 0.3 * two.delta(linear)
        torch.testing.assert_close(both[name], expected)


def test_merging_leaves_the_base_alone_and_shares_what_no_adapter_changes(backbone: Any) -> None:
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    adapter = drawn(backbone)
    made: Any = merged(backbone, [(adapter, 1.0)])
    own = dict(made.named_parameters())
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, before[name])
        changed = name.removesuffix(".weight") in adapter.factors
        assert (own[name].data_ptr() != parameter.data_ptr()) == changed
        assert own[name].requires_grad == parameter.requires_grad
    assert {n: b.data_ptr() for n, b in made.named_buffers()} == {n: b.data_ptr() for n, b in backbone.named_buffers()}
    assert made.config is not backbone.config


def test_the_same_merge_gives_the_same_bits_whatever_came_before(plain: Any) -> None:
    one, two = drawn(plain, 1), drawn(plain, 2)
    first = states(merged(plain, [(one, 1.0)]))
    merged(plain, [(two, 1.0)])
    assert torch.equal(states(merged(plain, [(one, 1.0)])), first)
