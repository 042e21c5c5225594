"""A student compiled by OpenVINO, for Intel and other CPUs.  B: texts, T: tokens, H: hidden.

Optional: `pip install 'limbeck[openvino]'`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.folders import replaced_folder, user_cache
from limbeck.model.graph import write_onnx
from limbeck.model.student import StudentModel

_FORMAT = 2  # of what lies in the cache: raised whenever a graph is made in another way


def installed() -> bool:
    """Whether OpenVINO, and what a graph is written by, are there."""
    return all(find_spec(name) is not None for name in ("openvino", "onnx", "onnxscript"))


def require() -> None:
    """Raise ModelError where something is missing."""
    if not installed():
        raise ModelError("the OpenVINO backend needs openvino, onnx and onnxscript: pip install 'limbeck[openvino]'")


class OpenVinoStudent:
    """Token ids → unit vectors, as the student it was made of gives them. Not for several threads at a time."""

    def __init__(self, student: StudentModel, *, key: str, precision: Literal["fp32", "bf16"], threads: int) -> None:
        """Compile a student; the graph is kept in the user's cache folder for the next time.

        Args:
            student: to be compiled, on the CPU.
            key: tells this student's weights, pooling and RoPE from all others.
            precision: that matrices are multiplied in.
            threads: to use.

        Raises ModelError: OpenVINO is not installed.
        """
        require()
        import openvino

        core = openvino.Core()
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,  # passes come one after the other
        }
        compiled = core.compile_model(_graph(student, key), "CPU", properties)
        self._request = compiled.create_infer_request()

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] int64 → [B, H] fp32, at unit length."""
        found = self._request.infer({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return torch.from_numpy(np.array(next(iter(found.values()))))  # a copy: the next pass writes over it


def _graph(student: StudentModel, key: str) -> Path:
    """The student as OpenVINO's own files, made if they are not there yet."""
    import openvino

    folder = user_cache() / "openvino" / f"{key}-{_FORMAT}-{openvino.__version__.partition('-')[0]}"
    path = folder / "model.xml"
    if not path.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(folder) as temporary:
            write_onnx(student, temporary / "model.onnx")
            model: Any = openvino.convert_model(str(temporary / "model.onnx"))
            openvino.save_model(model, str(temporary / "model.xml"), compress_to_fp16=False)
            del model  # it maps the files that are removed now
            for file in temporary.glob("model.onnx*"):  # weights of more than 2 GiB lie in a file of their own
                file.unlink()
    return path
