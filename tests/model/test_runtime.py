"""How a device is used: what is asked for is done, and `auto` is what fits."""

from __future__ import annotations

import pytest
import torch

from limbeck.model import runtime

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_is_asked_for_is_taken() -> None:
    assert runtime.device_of("cpu") == CPU
    assert runtime.device_of("cuda:1") == torch.device("cuda", 1)
    assert runtime.precision_of("fp32", CPU) == "fp32"
    assert runtime.precision_of("bf16", CPU) == "bf16"
    assert runtime.attention_of("eager", CUDA, 8192) == "eager"


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_bf16_is_chosen_where_the_device_computes_in_it(monkeypatch, native: bool, precision: str) -> None:
    monkeypatch.setattr(runtime, "computes_in_bf16", lambda device: native)
    assert runtime.precision_of("auto", CPU) == precision


def test_attention_is_chosen_by_device_length_and_precision(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert runtime.attention_of("auto", CPU, 512) == "eager"
    assert runtime.attention_of("auto", CPU, 513) == "eager_or_sdpa"  # each batch by its own length
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert runtime.attention_of("auto", CPU, 512) == runtime.attention_of("auto", CPU, 513) == "sdpa"
    assert runtime.attention_of("auto", CPU, 512, "fp32", trains=True) == "sdpa"
    assert runtime.attention_of("auto", CPU, 512, "bf16", trains=True) == "eager"  # its backward pass is the slow one
    assert runtime.attention_of("auto", CPU, 513, "bf16", trains=True) == "eager_or_sdpa"
    assert runtime.attention_of("auto", CUDA, 512) == "flash_attention_2"
    assert runtime.attention_of("auto", CUDA, 512, "fp32") == "sdpa"  # FlashAttention has no fp32
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    assert runtime.attention_of("auto", CUDA, 512) == "sdpa"


def test_autocast_computes_matrix_products_in_bf16_and_leaves_fp32_alone() -> None:
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with runtime.autocast(precision, CPU):  # type: ignore[arg-type]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
