"""Keys and allowances, with a clock that is told."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from limbeck.errors import ConfigError
from limbeck.serve import keys as module
from limbeck.serve.keys import Allowance, Keys


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rewrite(file: Path, text: str) -> None:
    """As an editor does it: another inode, so that the file's change is seen however coarse its times are."""
    other = file.with_suffix(".new")
    other.write_text(text)
    os.replace(other, file)


def test_without_keys_none_is_needed() -> None:
    assert not Keys().needed and not Keys(environment=" , ").needed


def test_each_key_has_an_owner_who_is_not_the_key() -> None:
    keys = Keys(environment="one, two\nthree")
    owners = [keys.owner(f"Bearer {key}") for key in ("one", "two", "three")]
    assert len(set(owners)) == 3 and None not in owners and not {"one", "two", "three"} & set(owners)
    assert keys.owner("bearer one") == owners[0]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "one", "é"])
def test_anything_else_has_none(header: str | None) -> None:
    assert Keys(environment="one").owner(header) is None


def test_every_key_is_compared_in_constant_time_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    honest = hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(len(a)) or honest(a, b))
    keys = Keys(environment="one two three")
    for header in ("Bearer one", "Bearer three", "Bearer nope", None):
        compared.clear()
        keys.owner(header)
        assert compared == [32, 32, 32]


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("# ours\none  # of Ann\n\ntwo\n")
    keys = Keys(file, "fixed", clock=clock)
    assert keys.owner("Bearer one") and keys.owner("Bearer two") and keys.owner("Bearer fixed")
    assert keys.owner("Bearer # ours") is None
    rewrite(file, "three\n")
    assert keys.owner("Bearer one")  # not looked at yet
    clock.now += 2
    assert keys.owner("Bearer one") is None
    assert keys.owner("Bearer three") and keys.owner("Bearer fixed")


@pytest.mark.parametrize("slip", ["# nothing\n", "", None])
def test_a_slip_with_the_file_neither_opens_nor_locks(slip: str | None, tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("one\n")
    keys = Keys(file, clock=clock)
    if slip is None:
        file.unlink()
    else:
        rewrite(file, slip)
    clock.now += 2
    assert keys.needed and keys.owner("Bearer one") and keys.owner("Bearer two") is None
    rewrite(file, "two\n")
    clock.now += 2
    assert keys.owner("Bearer two") and keys.owner("Bearer one") is None


@pytest.mark.parametrize("text", ["", "# only\n", None])
def test_a_server_does_not_start_with_a_file_without_keys(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match="write one key a line"):
        Keys(tmp_path / "keys")


def test_an_allowance_is_of_an_owner_and_of_a_minute() -> None:
    clock = Clock()
    allowance = Allowance(60, clock=clock)
    assert all(allowance.spend("ann", 1) == 0 for _ in range(60))
    assert allowance.spend("ann", 1) == pytest.approx(1)
    assert allowance.spend("bob", 1) == 0
    clock.now += 0.5
    assert allowance.spend("ann", 1) == pytest.approx(0.5)
    clock.now += 0.5
    assert allowance.spend("ann", 1) == 0
    clock.now += 3_600
    assert sum(allowance.spend("ann", 1) == 0 for _ in range(100)) == 60  # no more than a minute's is kept


def test_a_cost_over_the_allowance_passes_once_and_is_paid_off() -> None:
    clock = Clock()
    allowance = Allowance(100, clock=clock)
    assert allowance.spend("ann", 300) == 0
    wait = allowance.spend("ann", 1)
    assert wait == pytest.approx(60 * 201 / 100)
    clock.now += wait - 1
    assert allowance.spend("ann", 1) > 0
    clock.now += 1.001
    assert allowance.spend("ann", 1) == 0


def test_no_limit_is_no_limit_and_strangers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Allowance(None).spend("ann", 1e9) == 0
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    allowance = Allowance(1, clock=Clock())
    assert [allowance.spend(owner, 1) for owner in "abc"] == [0, 0, 0]
    assert len(allowance._left) == 2
