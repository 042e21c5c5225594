"""What every teacher is held to: texts that can be encoded go in, finite unit vectors of the promised width come out.

Legend: N texts, D the teacher's dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from limbeck.errors import DataError, TeacherError

Progress = Callable[[int], None]  # called with the number of further texts done; the calls add up to all texts

_SHOWN = 40  # characters of a text in a message: enough to find it, too few to leak it


def utf8(text: str, index: int) -> bytes:
    """UTF-8 bytes of a text.

    Raises:
        DataError: `text` is not a string, or holds a lone surrogate (half of a character), which no tokenizer reads.
    """
    if not isinstance(text, str):
        raise DataError(f"text {index} must be a string, got {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text {index} ({shown(text)}) is not valid Unicode: half of a surrogate pair at character {error.start}; "
            "remove it, e.g. with text.encode(errors='ignore').decode()"
        ) from None


def shown(text: str) -> str:
    """The beginning of a text, printable in ASCII."""
    return ascii(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")


def unit_vectors(
    vectors: np.ndarray, texts: Sequence[str], *, positions: Sequence[int] | np.ndarray, dim: int, teacher: str
) -> np.ndarray:
    """Check a teacher's answer and bring it to unit length.

    Args:
        vectors: [N, D], any float type.
        texts: [N], what was encoded; only the beginning of a bad one is named.
        positions: [N], where each text stands among all texts of the call, for messages.
        dim: D as the recipe promises it.
        teacher: its name, for messages.

    Returns:
        float32 [N, D], each row of L2 norm 1.

    Raises:
        TeacherError: another shape, NaN or infinity, or a vector of zeros.
    """
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise TeacherError(f"teacher {teacher}: expected {len(texts)} vectors, got an array of shape {vectors.shape}")
    if vectors.shape[1] != dim:
        raise TeacherError(wrong_dim(teacher, expected=dim, got=vectors.shape[1]))
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    sound = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    if not sound.all():
        bad = int(np.argmin(sound))
        kind = "a vector of zeros" if norms[bad] == 0 else "NaN or infinity"
        raise TeacherError(
            f"teacher {teacher} answers {kind} to text {positions[bad]}, {shown(texts[bad])}: leave it out, or set "
            "teacher.precision=fp32 if others fail too"
        )
    return vectors / norms


def wrong_dim(teacher: str, *, expected: int, got: int) -> str:
    """Message for vectors of another width than the recipe promises."""
    return f"teacher {teacher}: expected {expected} dims, got {got}: set teacher.dim={got}"
