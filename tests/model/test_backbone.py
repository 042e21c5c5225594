"""Where the student's first weights come from, and that they are what was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FRESH, LAYERS, WIDTH, byte_level, student, wordpiece
from torch import Tensor

from limbeck.errors import ConfigError, ModelError
from limbeck.model import backbone as backbones
from limbeck.model.backbone import average_in_last_layer, build, pca, rotary_bert, size
from limbeck.model.pretrained import read_model

IDS = torch.tensor([[2, 40, 50, 60, 70, 80, 90, 3]])


def fresh(**changes: Any):
    return student(init="fresh", fresh=FRESH | changes, dims=[8, 24])


def pruned(layers: list[int], **changes: Any):
    body = {k: changes.pop(k) for k in list(changes) if k in ("rope", "pool_attention", "source")}
    return student(init="pruned", pruned={"layers": layers} | body, **changes)


@torch.no_grad()
def states(model: Any, ids: Tensor = IDS, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    return model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state


# ------------------------------------------------------------------------------------------- fresh


def test_the_token_embeddings_of_a_fresh_decoder_are_the_teachers_principal_components(bert: Path) -> None:
    rows = read_model(bert).get_input_embeddings().weight.detach()
    centred = (rows - rows.mean(dim=0)).double()
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ components[:24].T
    found = build(fresh(), bert, seed=0).model.get_input_embeddings().weight.detach().double()
    # Equal up to one scale and the sign of each component.
    scale = found.norm() / expected.norm()
    torch.testing.assert_close(found.abs(), (expected * scale).abs(), atol=1e-5, rtol=1e-3)
    assert found.std().item() == pytest.approx(0.02, rel=1e-3)


def test_principal_components_keep_distances_as_well_as_any_projection_can() -> None:
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 16) + 5
    centred = rows - rows.mean(dim=0)
    singular = torch.linalg.svdvals(centred)
    reduced = pca(rows, 6)
    assert reduced.pow(2).sum().item() == pytest.approx(singular[:6].pow(2).sum().item(), rel=1e-4)
    whole = pca(rows, 16)  # a rotation: inner products of centred rows stay
    torch.testing.assert_close(whole @ whole.T, centred @ centred.T, atol=1e-4, rtol=1e-4)


def test_more_values_a_token_than_the_teacher_has_are_an_error(bert: Path) -> None:
    section = student(init="fresh", fresh=FRESH | {"hidden_size": 40}, dims=[40])
    with pytest.raises(ConfigError, match="32 values a token cannot give 40: set student.fresh.hidden_size lower"):
        build(section, bert, seed=0)


def test_another_tokenizer_than_the_one_that_copied_embeddings_belong_to_is_refused(bert: Path, qwen3: Path) -> None:
    of_qwen = {"tokenizer": str(qwen3)}
    for section in (
        student(init="fresh", fresh=FRESH, dims=[24], **of_qwen),
        pruned([0], **of_qwen),
        pruned([0], source=str(qwen3), tokenizer=str(bert)),
    ):
        with pytest.raises(ConfigError, match="has other tokens than .*, whose token embeddings are copied"):
            build(section, bert, seed=0)
    drawn = student(init="fresh", fresh=FRESH | {"token_embeddings": "random"}, dims=[24], **of_qwen)
    assert len(build(drawn, bert, seed=0).model.get_input_embeddings().weight) == len(byte_level())
    build(pruned([0], tokenizer=str(bert)), bert, seed=0)


def test_a_tokenizer_with_more_tokens_than_the_backbone_embeds_is_refused(eurobert: Path, qwen3: Path) -> None:
    section = student(init="random", model=str(eurobert), config={"vocab_size": 100}, tokenizer=str(qwen3))
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens, the backbone embeds 100"):
        build(section, "unused", seed=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padding", [0, 3])
def test_earlier_states_see_later_tokens_only_where_the_decoder_is_not_causal(
    bert: Path, tmp_path: Path, attention: str, causal: bool, padding: int
) -> None:
    model: Any = build(fresh(causal=causal, token_embeddings="random"), bert, seed=0, attention=attention).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # so that the effect is far above rounding
    model.save_pretrained(tmp_path)
    again = read_model(tmp_path, attn_implementation=attention)
    other = IDS.clone()
    other[0, -1] = 100
    pad = torch.zeros(1, padding, dtype=torch.int64)
    mask = torch.cat([torch.ones_like(IDS), pad], dim=1)
    for each in (model, again):
        before, after = (states(each, torch.cat([i, pad], dim=1), mask)[:, :7] for i in (IDS, other))
        assert torch.equal(before, after) == causal
        assert causal or (before - after).abs().max() > 0.01


def test_the_closing_token_learns_even_where_it_is_the_padding_token_too(qwen3: Path) -> None:
    built = build(fresh(), qwen3, seed=0)
    assert built.tokenizer.pad_id == built.tokenizer.closing_id
    rows, _ = built.tokenizer.ids(["join two tables"], max_tokens=16)
    built.model(input_ids=torch.tensor(rows[0][None].astype("int64"))).last_hidden_state.pow(3).sum().backward()
    weight = built.model.get_input_embeddings().weight  # type: ignore[operator]
    assert weight[built.tokenizer.closing_id].abs().sum() > 0
    assert weight.grad[built.tokenizer.closing_id].abs().sum() > 0


def test_a_field_of_student_config_replaces_what_is_set_here(bert: Path) -> None:
    section = student(
        init="fresh", fresh=FRESH, dims=[24], config={"max_position_embeddings": 77, "rms_norm_eps": 1e-3}
    )
    config = build(section, bert, seed=0).config
    assert (config.max_position_embeddings, config.rms_norm_eps, config.is_causal) == (77, 1e-3, True)


def test_a_fresh_decoder_has_room_for_the_longest_text(bert: Path) -> None:
    section = student(init="fresh", fresh=FRESH, dims=[24], max_tokens=40_000)
    assert build(section, bert, seed=0).config.max_position_embeddings >= 40_000


# ------------------------------------------------------------------------------------------ pruned


def test_a_bert_made_rotary_has_every_weight_of_the_chosen_layers(bert: Path) -> None:
    source: Any = read_model(bert)
    model: Any = rotary_bert(source, [3, 1], pruned([3, 1]))
    old, new = source.state_dict(), model.state_dict()
    names = {
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.o_proj",
        "attention.output.LayerNorm": "post_attention_layernorm",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "post_mlp_layernorm",
    }
    for place, layer in enumerate([3, 1]):
        for theirs, ours in names.items():
            for part in ("weight", "bias"):
                assert torch.equal(new[f"layers.{place}.{ours}.{part}"], old[f"encoder.layer.{layer}.{theirs}.{part}"])
    assert torch.equal(new["embeddings.word_embeddings.weight"], old["embeddings.word_embeddings.weight"])
    kind = old["embeddings.token_type_embeddings.weight"][0] + old["embeddings.position_embeddings.weight"].mean(dim=0)
    torch.testing.assert_close(new["embeddings.token_type_embeddings.weight"][0], kind)


def test_a_bert_made_rotary_is_that_bert_where_no_token_has_a_position(bert: Path) -> None:
    source: Any = read_model(bert)
    with torch.no_grad():
        source.embeddings.position_embeddings.weight.zero_()
    model: Any = rotary_bert(source, list(range(LAYERS)), pruned(list(range(LAYERS))))
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.zero_()
    torch.testing.assert_close(states(model), states(source), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "eurobert", "modernbert"])
def test_all_layers_chosen_are_the_source(name: str, request) -> None:
    source = request.getfixturevalue(name)
    built = build(pruned(list(range(LAYERS))), source, seed=0)
    assert torch.equal(states(built.model), states(read_model(source)))


def test_all_layers_of_a_bert_without_rotary_positions_are_the_source(bert: Path) -> None:
    built = build(pruned(list(range(LAYERS)), rope=False), bert, seed=0)
    assert torch.equal(states(built.model), states(read_model(bert)))


@pytest.mark.parametrize(("name", "layers"), [("qwen3", [2, 0]), ("eurobert", [1, 3]), ("modernbert", [0, 3, 2])])
def test_chosen_layers_are_those_of_the_source_in_the_order_given(name, layers, request, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    built = build(pruned(layers), folder, seed=0)
    source = read_model(folder)
    for new, old in zip(built.model.layers, layers, strict=True):  # type: ignore[arg-type]
        for part, weight in new.state_dict().items():
            assert torch.equal(weight, source.layers[old].state_dict()[part])
    if getattr(source.config, "layer_types", None):
        assert built.config.layer_types == [source.config.layer_types[i] for i in layers]
    built.model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert torch.equal(states(read_model(tmp_path)), states(built.model))


def test_a_layer_that_does_not_exist_is_an_error_that_says_which_do(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"student.pruned.layers names \[4, 9\], the source has layers 0 to 3"):
        build(pruned([0, 4, 9]), bert, seed=0)


def test_a_layer_that_does_not_fit_its_place_is_an_error(modernbert: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer 1 of ModernBertModel cannot be layer 0 of the student.*attn_norm"):
        build(pruned([1, 2]), modernbert, seed=0)


@pytest.mark.parametrize("kind", ["pretrained", "absolute", "rotary"])
def test_a_student_is_trained_without_dropout_unless_its_config_says_so(kind: str, bert: Path) -> None:
    how: dict[str, Any] = {"init": "pruned", "pruned": {"layers": [0, 2], "rope": kind == "rotary"}}
    if kind == "pretrained":
        how = {"model": str(bert)}

    def built(**config: float) -> Any:
        return build(student(**how, config=config or None), bert, seed=0).model.train()

    def passes(model: Any) -> list[Tensor]:
        return [model(input_ids=torch.arange(5, 15)[None]).last_hidden_state for _ in range(2)]

    torch.testing.assert_close(*passes(built()), rtol=0, atol=0)
    once, again = passes(built(hidden_dropout_prob=0.3))
    assert not torch.allclose(once, again)


def test_a_source_of_its_own_is_pruned_with_its_own_tokenizer(bert: Path, qwen3: Path) -> None:
    built = build(pruned([0], source=str(qwen3)), bert, seed=0)
    assert len(built.tokenizer) == len(byte_level())
    assert built.config.model_type == "qwen3"


def test_the_last_token_starts_as_the_mean_of_the_states_below(bert: Path) -> None:
    plain, averaged = (build(pruned([0, 1, 2], pool_attention=p), bert, seed=0).model for p in (False, True))
    ids = torch.randint(5, 200, (16, 20), generator=torch.Generator().manual_seed(0))

    def below(model: Any) -> Tensor:
        kept = []
        handle = model.layers[-1].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        states(model, ids)
        handle.remove()
        return kept[0]

    mean = below(averaged).mean(dim=1)
    last = states(averaged, ids)[:, -1]
    # The two norms of the layer only centre and scale: compare what they are given.
    norm = torch.nn.functional.layer_norm
    cosine = torch.cosine_similarity(last, norm(mean, mean.shape[-1:]), dim=-1)
    before = torch.cosine_similarity(states(plain, ids)[:, -1], norm(mean, mean.shape[-1:]), dim=-1)
    assert cosine.min() > 0.9
    assert cosine.min() > before.max()


def test_averaging_leaves_every_weight_of_the_last_attention_a_gradient(bert: Path) -> None:
    built = build(pruned([0, 1], pool_attention=True), bert, seed=0)
    built.model(input_ids=IDS).last_hidden_state[:, -1].pow(3).sum().backward()
    layer = built.model.layers[-1]  # type: ignore[index]
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.fc2"):
        assert layer.get_parameter(f"{name}.weight").grad.abs().sum() > 0, name


def test_averaging_is_even_where_queries_and_keys_are_normalised() -> None:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=200,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    model = Qwen3Model(config)
    average_in_last_layer(model)
    with torch.no_grad():
        attention = model.eval()(input_ids=IDS, output_attentions=True).attentions[-1]
    assert attention[0, :, -1].max() < 1.5 / IDS.shape[1]


@pytest.mark.parametrize("name", ["qwen3", "modernbert"])
def test_averaging_where_the_maps_are_not_square_is_an_error(name: str, request) -> None:
    with pytest.raises(ConfigError, match="student.pruned.pool_attention needs square value and output maps"):
        build(pruned([0, 1], pool_attention=True), request.getfixturevalue(name), seed=0)


def test_averaging_in_a_bert_with_absolute_positions_is_an_error(bert: Path) -> None:
    with pytest.raises(ConfigError, match="BertModel has others: leave it out"):
        build(pruned([0, 1], pool_attention=True, rope=False), bert, seed=0)


# ------------------------------------------------------------------------- pretrained and random


@pytest.mark.parametrize("name", ["qwen3", "eurobert", "modernbert"])
def test_a_pretrained_backbone_is_the_folder(name: str, request) -> None:
    folder = request.getfixturevalue(name)
    built = build(student(model=str(folder)), "unused", seed=0)
    assert torch.equal(states(built.model), states(read_model(folder)))
    assert all(p.dtype == torch.float32 for p in built.model.parameters())


def test_a_backbone_stored_in_bf16_is_trained_in_fp32(qwen3: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen3, tmp_path / "half")
    read_model(qwen3).bfloat16().save_pretrained(tmp_path / "half")
    built = build(student(model=str(tmp_path / "half")), "unused", seed=0)
    assert {p.dtype for p in built.model.parameters()} == {torch.float32}


def test_a_random_student_has_the_shape_of_its_config_and_needs_no_folder(bert: Path) -> None:
    body = {"model_type": "qwen3", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3}
    body |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 40}
    built = build(student(init="random", config=body, tokenizer=str(bert)), "unused", seed=0)
    assert len(built.model.layers) == 3  # type: ignore[arg-type]
    assert built.config.layer_types == ["full_attention"] * 3


def test_a_random_student_takes_the_shape_of_a_folder_but_none_of_its_weights(qwen3: Path, tmp_path: Path) -> None:
    built = build(student(init="random", model=str(qwen3), config={"num_hidden_layers": 2}), "unused", seed=0)
    source = read_model(qwen3)
    assert len(built.model.layers) == 2  # type: ignore[arg-type]
    same = [
        torch.equal(p, q) for p, q in zip(built.model.parameters(), source.parameters(), strict=False) if p.ndim > 1
    ]
    assert not any(same)
    built.model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert read_model(tmp_path).config.num_hidden_layers == 2


def test_a_field_that_the_config_does_not_have_is_an_error_that_names_it(qwen3: Path) -> None:
    with pytest.raises(ConfigError, match=r"names \['hiden_size'\], which Qwen3Config does not have"):
        build(student(model=str(qwen3), config={"hiden_size": 8}), "unused", seed=0)
    with pytest.raises(ConfigError, match=r"\['rope_theta'\].*set student.rope.train_theta"):
        build(student(model=str(qwen3), config={"rope_theta": 5.0}), "unused", seed=0)
    with pytest.raises(ConfigError, match="does not fit Qwen3Config: .*yarn.*factor"):
        build(student(model=str(qwen3), config={"rope_parameters": {"rope_type": "yarn"}}), "unused", seed=0)
    with pytest.raises(ConfigError, match=r"names \['hiden_size'\]"):
        build(student(init="random", config={"model_type": "qwen3", "hiden_size": 8}, tokenizer=str(qwen3)), "", seed=0)


def test_a_value_that_the_config_does_not_take_is_an_error(qwen3: Path) -> None:
    with pytest.raises(ConfigError, match="student.config does not fit"):
        build(student(model=str(qwen3), config={"hidden_size": "wide"}), "unused", seed=0)
    with pytest.raises(ConfigError, match="student.config does not fit"):
        build(student(init="random", config={"model_type": "no-such"}, tokenizer=str(qwen3)), "unused", seed=0)


def test_dims_that_do_not_end_with_the_width_are_an_error(qwen3: Path) -> None:
    with pytest.raises(ConfigError, match=r"student.dims must end with the backbone's width 32, got \[8, 64\]"):
        build(student(model=str(qwen3), dims=[8, 64]), "unused", seed=0)


def test_a_missing_folder_is_an_error_that_says_what_to_do(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match="none/such.*Give a folder|no tokenizer in none/such"):
        build(student(model="none/such"), "unused", seed=0)
    with pytest.raises(
        ModelError, match="cannot read the config of none/such.*Give a folder that holds it, or go online"
    ):
        build(student(model="none/such", tokenizer=str(bert)), "unused", seed=0)
    with pytest.raises(ModelError, match=f"no tokenizer in {tmp_path}"):
        build(pruned([0]), tmp_path, seed=0)


def test_weights_that_are_not_safetensors_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(bert, folder)
    torch.save(read_model(bert).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load .*pickled"):
        build(student(model=str(folder)), "unused", seed=0)
    with pytest.raises(ModelError, match="cannot load .*pickled"):
        build(pruned([0]), folder, seed=0)


def test_weights_that_are_missing_are_not_drawn_at_random_in_silence(eurobert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    shutil.copytree(eurobert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS + 1}))
    with pytest.raises(ModelError, match=r"no weights for \d+ parts of EuroBertModel, among them layers.4"):
        build(student(model=str(folder)), "unused", seed=0)


# -------------------------------------------------------------------------------------- every kind


def sections(bert: Path, qwen3: Path):
    return {
        "fresh": fresh(),
        "fresh, random embeddings": fresh(token_embeddings="random"),
        "pruned": pruned([0, 2]),
        "random": student(init="random", model=str(qwen3)),
        "pretrained": student(model=str(qwen3)),
    }


KINDS = ["fresh", "fresh, random embeddings", "pruned", "random", "pretrained"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_weight(kind: str, bert: Path, qwen3: Path) -> None:
    section = sections(bert, qwen3)[kind]
    torch.manual_seed(1)
    one = build(section, bert, seed=5).model.state_dict()
    torch.manual_seed(2)
    two = build(section, bert, seed=5).model.state_dict()
    other = build(section, bert, seed=6).model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    copied = kind == "pretrained"
    assert all(torch.equal(one[k], other[k]) for k in one if not k.startswith("pooler.")) == (
        copied or kind == "pruned"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_drawn_elsewhere_are_not_disturbed(kind: str, bert: Path, qwen3: Path) -> None:
    before = torch.get_rng_state()
    build(sections(bert, qwen3)[kind], bert, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_is_put_back_after_an_error_too(bert: Path) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ConfigError):
        build(pruned([9]), bert, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pooler_is_kept_but_not_trained(bert: Path) -> None:
    model: Any = build(student(model=str(bert)), "unused", seed=0).model
    assert not any(p.requires_grad for p in model.pooler.parameters())
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith("pooler."))


def test_weights_are_counted_without_a_pooler_and_with_token_embeddings_apart(bert: Path) -> None:
    model: Any = read_model(bert)
    counted = size(model)
    assert counted.embeddings == len(wordpiece()) * WIDTH
    pooler = WIDTH * WIDTH + WIDTH
    assert counted.total == sum(p.numel() for p in model.parameters()) - pooler
    assert counted.layers == counted.total - counted.embeddings


def test_a_model_without_a_known_stack_of_layers_cannot_be_pruned() -> None:
    with pytest.raises(ModelError, match="no stack of layers found in Linear"):
        backbones.layers(torch.nn.Linear(2, 2))
