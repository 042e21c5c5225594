"""What limbeck says of a machine is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import doctor, machine
from limbeck.errors import ModelError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "matmul_rate", lambda *_, **__: 5e9)


def test_what_is_missing_of_an_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    had = doctor._has
    monkeypatch.setattr(doctor, "_has", lambda package: package != "peft" and had(package))
    report = doctor.examine()
    [train] = [part for part in report.extras if part.name == "train"]
    assert not train.usable
    assert "peft" in train.missing and "torch" not in train.missing
    assert any(line.startswith("extra     no   train: lacks") and "peft" in line for line in report.lines())


def test_bf16_is_used_where_the_cpu_has_it_and_the_report_says_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.model.runtime.device_of", lambda *_: __import__("torch").device("cpu"))
    for instructions, precision in (("amx", "bf16"), ("none", "fp32")):
        monkeypatch.setattr(machine, "_cpu_bf16", lambda found=instructions: found)
        report = doctor.examine()
        assert f", {precision} on cpu" in report.runtime
        assert ("by amx" in report.why) == (precision == "bf16")
        assert sorted(report.matmul_gflops) == sorted({"fp32", precision})
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    [compiled] = [part for part in doctor.examine().backends if part.name == "torch, compiled"]
    assert not compiled.usable and "C++ compiler" in compiled.why


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is neither a folder"):
        doctor.examine(str(tmp_path / "nothing"))


def test_cores_are_those_that_the_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = machine.usable_cores()
    read = Path.read_text
    for said, cores in (("150000 100000", 1), ("max 100000", plain), (f"{plain * 200_000} 100000", plain)):

        def of_quota(path: Path, *args: object, said: str = said, **named: object) -> str:
            return said if path.name == "cpu.max" else read(path, *args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "read_text", of_quota)
        assert machine.usable_cores() == cores


def test_the_command_prints_one_object() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] == machine.usable_cores()
    assert found["matmul_gflops"]["fp32"] > 0 and found["model"] is None
