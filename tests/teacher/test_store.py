"""The teacher store: what was acknowledged is there, whatever happened since."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import DataError, StoreError, TeacherError
from limbeck.teacher.keys import KeyIndex, first_of_each, text_keys
from limbeck.teacher.store import TeacherStore

DIM = 8

# What the subprocesses of these tests share with them.
ENCODE = textwrap.dedent(
    """
    import hashlib, numpy as np

    def encode(texts, *, instruction, progress=None, dim=8):
        bytes_ = [hashlib.shake_128((instruction + "\\n" + t).encode()).digest(dim) for t in texts]
        vectors = np.array([np.frombuffer(b, np.int8) for b in bytes_], np.float32).reshape(-1, dim) + 0.5
        if progress:
            progress(len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    """
)
_scope: dict = {}
exec(ENCODE, _scope)
encode = _scope["encode"]


def expected(texts: list[str], instruction: str = "", dim: int = DIM) -> np.ndarray:
    return encode(texts, instruction=instruction, dim=dim).astype(np.float16)


def never(texts, *, instruction, progress=None):
    raise AssertionError("encode was called")


def open_store(root: Path, fingerprint: str = "teacher@1", dim: int = DIM) -> TeacherStore:
    return TeacherStore.open(root, fingerprint=fingerprint, dim=dim)


def texts_named(start: int, stop: int) -> list[str]:
    return [f"text {i}" for i in range(start, stop)]


def python(script: str, *args: object, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", ENCODE + textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


# ------------------------------------------------------------------------------------------- teaching


def test_gathered_vectors_are_the_encoded_ones_in_fp16_in_order_with_repeats(tmp_path):
    store, texts = open_store(tmp_path), texts_named(0, 100)
    rows = store.teach(texts, "", encode, chunk=7)
    wanted = [99, 0, 0, 50, 99]
    gathered = store.gather(rows[wanted])
    assert gathered.dtype == np.float16 and gathered.shape == (5, DIM)
    np.testing.assert_array_equal(gathered, expected([texts[i] for i in wanted]))


@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.sampled_from(["", "q: "])), max_size=4
    ),
    chunk=st.integers(1, 5),
)
def test_teach_then_gather_equals_encode_whatever_the_texts_and_chunks(calls, chunk):
    with tempfile.TemporaryDirectory() as root:
        store = open_store(Path(root))
        for texts, instruction in calls:
            rows = store.teach(texts, instruction, encode, chunk=chunk)
            np.testing.assert_array_equal(store.gather(rows), expected(texts, instruction))
        assert len(store) == len({(text, instruction) for texts, instruction in calls for text in texts})
        assert store.verify() == len(store)


def test_known_texts_are_not_encoded_again_in_this_process_or_the_next(tmp_path):
    texts = texts_named(0, 20)
    rows = open_store(tmp_path).teach(texts, "", encode)
    again = open_store(tmp_path)
    np.testing.assert_array_equal(again.teach(texts, "", never), rows)
    np.testing.assert_array_equal(again.find(texts), rows)


def test_only_unknown_texts_are_encoded_and_each_once(tmp_path):
    store, seen = open_store(tmp_path), []

    def recording(texts, *, instruction, progress=None):
        seen.extend(texts)
        return encode(texts, instruction=instruction)

    store.teach(["b"], "", encode)
    store.teach(["a", "b", "a", "c", "c"], "", recording)
    assert seen == ["a", "c"]


def test_the_instruction_is_part_of_the_key_and_reaches_the_teacher(tmp_path):
    store = open_store(tmp_path)
    plain, asked = store.teach(["x"], "", encode), store.teach(["x"], "query: ", encode)
    assert plain[0] != asked[0]
    np.testing.assert_array_equal(store.gather(asked), expected(["x"], "query: "))
    assert store.find(["query: x"], "").tolist() == [-1]  # the boundary between the two counts


def test_unknown_texts_are_found_at_minus_one(tmp_path):
    store = open_store(tmp_path)
    assert store.find(["a", "b"]).tolist() == [-1, -1]
    store.teach(["b"], "", encode)
    assert store.find(["a", "b"]).tolist() == [-1, 0]


def test_no_texts_and_no_rows_are_fine(tmp_path):
    store = open_store(tmp_path)
    assert store.teach([], "", never).shape == (0,)
    assert store.find([]).shape == (0,)
    assert store.gather([]).shape == (0, DIM)
    assert len(store) == store.verify() == 0


def test_a_text_of_100000_characters_is_a_text(tmp_path):
    store, texts = open_store(tmp_path), ["x" * 100_000, "x" * 99_999, "short"]
    np.testing.assert_array_equal(store.gather(store.teach(texts, "", encode)), expected(texts))


def test_a_lone_surrogate_is_an_error_that_names_the_text(tmp_path):
    with pytest.raises(DataError, match="text 1 .*not valid Unicode.*character 2"):
        open_store(tmp_path).teach(["fine", "ab\ud800"], "", never)


def test_what_is_not_a_string_is_an_error_that_names_the_text(tmp_path):
    with pytest.raises(DataError, match="text 1 must be a string, got NoneType"):
        open_store(tmp_path).find(["fine", None])  # type: ignore[list-item]


def test_chunks_end_at_so_many_texts_or_characters(tmp_path):
    sizes = []

    def recording(texts, *, instruction, progress=None):
        sizes.append([len(t) for t in texts])
        return encode(texts, instruction=instruction)

    texts = ["a", "b", "c", "d" * 50, "e" * 4, "f" * 4, "g" * 4]
    open_store(tmp_path).teach(texts, "", recording, chunk=2, chunk_chars=10)
    assert sizes == [[1, 1], [1], [50], [4, 4], [4]]


def test_progress_adds_up_to_all_texts_known_repeated_or_new(tmp_path):
    store, steps = open_store(tmp_path), []
    store.teach(texts_named(0, 5), "", encode)
    store.teach(texts_named(0, 12) * 2, "", encode, chunk=3, progress=steps.append)
    assert sum(steps) == 24


def test_a_teach_that_fails_midway_keeps_the_chunks_before(tmp_path):
    store, calls = open_store(tmp_path), []

    def failing(texts, *, instruction, progress=None):
        calls.append(len(texts))
        if len(calls) == 3:
            raise TeacherError("down")
        return encode(texts, instruction=instruction)

    with pytest.raises(TeacherError, match="down"):
        store.teach(texts_named(0, 50), "", failing, chunk=10)
    assert len(open_store(tmp_path)) == 20


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((2, DIM + 1)), f"expected {DIM} dims, got {DIM + 1}: set teacher.dim={DIM + 1}"),
        (np.ones((3, DIM)), "expected 2 vectors"),
        (np.ones(DIM), "expected 2 vectors"),
        (np.full((2, DIM), np.nan), "NaN"),
        (np.full((2, DIM), 1e6), "fp16 cannot hold"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, answer, message):
    store = open_store(tmp_path)
    with pytest.raises(TeacherError, match=message):
        store.teach(["a", "b"], "", lambda texts, *, instruction, progress=None: answer)
    assert len(open_store(tmp_path)) == 0


def test_a_row_that_is_not_there_is_an_error(tmp_path):
    store = open_store(tmp_path)
    rows = store.teach(["a"], "", encode)
    for bad in ([-1], [1], [*rows, 7]):
        with pytest.raises(StoreError, match="rows 0 to 0, asked for"):
            store.gather(bad)


# ----------------------------------------------------------------------------------------------- keys


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), unique=True), max_size=4))
def test_the_index_finds_what_a_dict_finds_even_where_first_halves_collide(batches):
    index, known = KeyIndex(), {}
    for batch in batches:
        new = [key for key in batch if key not in known]
        index.add(np.array(new, np.uint64).reshape(-1, 2), len(known))
        known |= {key: len(known) + i for i, key in enumerate(new)}
    every = [(a, b) for a in range(5) for b in range(5)]
    assert index.find(np.array(every, np.uint64)).tolist() == [known.get(key, -1) for key in every]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
def test_first_of_each_is_where_a_key_comes_up_first(keys):
    expected_places = [i for i, key in enumerate(keys) if key not in keys[:i]]
    assert first_of_each(np.array(keys, np.uint64).reshape(-1, 2)).tolist() == expected_places


def test_a_key_is_blake2b_of_length_instruction_and_text():
    base = hashlib.blake2b((3).to_bytes(8, "little") + b"q: " + "é".encode(), digest_size=16, person=b"limbeck-text")
    assert text_keys(["é"], "q: ").tobytes() == base.digest()


# ------------------------------------------------------------------------------------ several processes


def test_rows_stay_the_same_and_an_open_store_sees_what_others_append(tmp_path):
    mine, other = open_store(tmp_path), open_store(tmp_path)
    rows = mine.teach(["a", "b"], "", encode)
    others = other.teach(["c", "a"], "", encode)
    np.testing.assert_array_equal(mine.gather(others), expected(["c", "a"]))  # one row was unknown to `mine`
    assert mine.find(["a", "b", "c"]).tolist() == [*rows, others[0]] == [0, 1, 2]
    assert open_store(tmp_path).id == mine.id


def test_an_encode_that_another_process_overtook_adds_no_second_row(tmp_path):
    mine, other = open_store(tmp_path), open_store(tmp_path)

    def overtaken(texts, *, instruction, progress=None):
        other.teach(["b", "c"], "", encode)
        return encode(texts, instruction=instruction)

    rows = mine.teach(["a", "b"], "", overtaken)
    assert len(mine) == 3 and rows.tolist() == [2, 0]
    np.testing.assert_array_equal(mine.gather(rows), expected(["a", "b"]))


def test_two_writers_at_once_lose_nothing_and_store_nothing_twice(tmp_path):
    script = """
        import sys
        from limbeck.teacher.store import TeacherStore
        root, start = sys.argv[1], int(sys.argv[2])
        print("ready", flush=True); sys.stdin.readline()
        store = TeacherStore.open(root, fingerprint="teacher@1", dim=8)
        for first in range(start, start + 600, 20):
            store.teach([f"text {i}" for i in range(first, first + 20)], "", encode, chunk=5)
    """
    writers = [python(script, tmp_path, start, stdin=subprocess.PIPE) for start in (0, 300)]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    store, texts = open_store(tmp_path), texts_named(0, 900)
    assert len(store) == store.verify() == 900
    np.testing.assert_array_equal(store.gather(store.teach(texts, "", never)), expected(texts))


def test_a_pickled_store_opens_its_own_map_elsewhere(tmp_path):
    store = open_store(tmp_path)
    rows = store.teach(texts_named(0, 1000), "", encode)
    data = pickle.dumps(store)
    assert len(data) < 500  # the place, not the vectors
    np.testing.assert_array_equal(pickle.loads(data).gather(rows), store.gather(rows))


# -------------------------------------------------------------------------------------------- crashes


def test_killed_at_any_moment_it_keeps_what_it_acknowledged(tmp_path):
    script = """
        import sys
        from limbeck.teacher.store import TeacherStore
        store = TeacherStore.open(sys.argv[1], fingerprint="teacher@1", dim=512)
        wide = lambda texts, *, instruction, progress: encode(texts, instruction=instruction, dim=512)
        for first in range(len(store), 10**9, 40):
            store.teach([f"text {i}" for i in range(first, first + 40)], "", wide)
            print(len(store), flush=True)
    """
    acknowledged, moments = 0, random.Random(0)
    for _ in range(10):
        writer = python(script, tmp_path)
        assert writer.stdout
        acknowledged = int(writer.stdout.readline())
        time.sleep(moments.uniform(0, 0.1))
        writer.kill()
        output, _ = writer.communicate()
        acknowledged = int(output.split()[-1]) if output.endswith("\n") and output.split() else acknowledged
        store, texts = open_store(tmp_path, dim=512), texts_named(0, acknowledged)
        assert len(store) >= acknowledged
        assert store.verify() == len(store)
        np.testing.assert_array_equal(store.gather(store.teach(texts, "", never)), expected(texts, dim=512))


def test_an_append_cut_at_any_byte_loses_at_most_itself(tmp_path):
    """Plays the writes of one append in their order and stops after each byte."""
    before, after = tmp_path / "before", tmp_path / "after"
    open_store(before, dim=2).teach(["a", "b"], "", encode_2d)
    shutil.copytree(before, after)
    open_store(after, dim=2).teach(["c", "d"], "", encode_2d)
    folder = open_store(before, dim=2).path.name
    names = ("vectors.f16", "keys.bin", "commits.bin")
    tails = {n: (after / folder / n).read_bytes()[(before / folder / n).stat().st_size :] for n in names}
    total = sum(map(len, tails.values()))
    assert total == 2 * 2 * 2 + 2 * 16 + 64
    for written in range(total + 1):
        root = tmp_path / "cut"
        shutil.copytree(before, root)
        left = written
        for name in names:
            with open(root / folder / name, "ab") as file:
                file.write(tails[name][:left])
            left -= min(left, len(tails[name]))
        store = open_store(root, dim=2)
        assert len(store) == store.verify() == (4 if written == total else 2)
        rows = store.teach(["e", "b", "c"], "", encode_2d)
        np.testing.assert_array_equal(store.gather(rows), expected(["e", "b", "c"], dim=2))
        assert store.verify() == len(open_store(root, dim=2)) == (5 if written == total else 4)
        shutil.rmtree(root)


def encode_2d(texts, *, instruction, progress=None):
    return encode(texts, instruction=instruction, dim=2)


def test_a_last_commit_of_zeros_is_a_torn_tail(tmp_path):
    store = open_store(tmp_path)
    store.teach(["a"], "", encode)
    with open(store.path / "commits.bin", "ab") as file:
        file.write(bytes(64))  # what a power cut leaves when the file grew and its bytes did not come
    store = open_store(tmp_path)
    np.testing.assert_array_equal(store.gather(store.teach(["b", "a"], "", encode)), expected(["b", "a"]))
    assert open_store(tmp_path).verify() == 2


def test_a_store_whose_making_was_killed_is_made_again(tmp_path):
    path = open_store(tmp_path).path
    (path / "store.json").unlink()
    assert len(open_store(tmp_path)) == 0


# --------------------------------------------------------------------------------------------- damage


def taught(root: Path) -> TeacherStore:
    store = open_store(root)
    store.teach(texts_named(0, 30), "", encode, chunk=10)
    return store


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def test_rot_in_the_vectors_is_found_by_verify_which_names_file_and_rows(tmp_path):
    path = taught(tmp_path).path / "vectors.f16"
    flip(path, 15 * DIM * 2)
    with pytest.raises(StoreError, match=r"vectors\.f16 is damaged: rows 10 to 19 .*delete"):
        open_store(tmp_path).verify()


@pytest.mark.parametrize(("name", "place"), [("keys.bin", 3), ("commits.bin", 20), ("commits.bin", -1)])
def test_rot_in_keys_and_commits_is_found_at_once(tmp_path, name, place):
    flip(taught(tmp_path).path / name, place)
    with pytest.raises(StoreError, match=f"{name} is damaged.*restore"):
        open_store(tmp_path)


@pytest.mark.parametrize("name", ["vectors.f16", "keys.bin"])
def test_a_file_that_lost_acknowledged_bytes_is_named(tmp_path, name):
    path = taught(tmp_path).path / name
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreError, match=f"{name} was cut short: expected at least"):
        open_store(tmp_path)


def test_an_open_store_notices_that_its_log_was_cut(tmp_path):
    store = taught(tmp_path)
    os.truncate(store.path / "commits.bin", 64)
    with pytest.raises(StoreError, match="commits.bin was cut short"):
        store.find(["text 1"])


@pytest.mark.parametrize("name", ["vectors.f16", "keys.bin", "commits.bin"])
def test_a_missing_file_is_named(tmp_path, name):
    (taught(tmp_path).path / name).unlink()
    with pytest.raises(StoreError, match=f"{name} is missing"):
        open_store(tmp_path)


def test_a_missing_header_beside_vectors_is_named(tmp_path):
    (taught(tmp_path).path / "store.json").unlink()
    with pytest.raises(StoreError, match="store.json is missing beside vectors.f16"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "does not describe a limbeck teacher store"),
        ({"version": 2}, "format version 2, this limbeck reads version 1: upgrade"),
        ({"fingerprint": "other@2"}, "another teacher: expected fingerprint 'teacher@1', got 'other@2'"),
        ({"dim": 16}, "another teacher: expected dim 8, got 16"),
    ],
)
def test_a_foreign_store_is_named(tmp_path, change, message):
    header = taught(tmp_path).path / "store.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    with pytest.raises(StoreError, match=message) as error:
        open_store(tmp_path)
    assert str(header) in str(error.value)


def test_a_header_that_is_not_json_is_named(tmp_path):
    (taught(tmp_path).path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="store.json is not valid JSON"):
        open_store(tmp_path)


def test_teachers_and_dims_have_stores_of_their_own(tmp_path):
    open_store(tmp_path, "a@1").teach(["x"], "", encode)
    assert len(open_store(tmp_path, "b@1")) == 0
    assert len(open_store(tmp_path, "a@1", dim=16)) == 0
    assert len(open_store(tmp_path, "a@1")) == 1


def test_a_root_that_is_a_file_is_named(tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(StoreError, match=f"{root}.*set teacher.store elsewhere"):
        open_store(root)


# ------------------------------------------------------------------------------- what the system refuses


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of a user who has no special rights, acting as that user: root may read and write everything."""
    with tempfile.TemporaryDirectory() as name:
        root = os.geteuid() == 0
        if root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_an_unreadable_file_is_named_with_what_to_do():
    with ordinary_user() as root:
        path = taught(root).path
        (path / "vectors.f16").chmod(0)
        with pytest.raises(StoreError, match=r"may not open .*vectors\.f16 .*teacher\.store"):
            open_store(root)


def test_a_read_only_store_can_be_read_but_not_taught():
    with ordinary_user() as root:
        path = taught(root).path
        for file in path.iterdir():
            file.chmod(0o444)
        path.chmod(0o555)
        try:
            store = open_store(root)
            np.testing.assert_array_equal(store.gather(store.find(["text 3"])), expected(["text 3"]))
            np.testing.assert_array_equal(store.teach(["text 3"], "", never), [3])
            with pytest.raises(StoreError, match=r"may not open .*teacher\.store"):
                store.teach(["new"], "", encode)
        finally:
            path.chmod(0o755)


def test_a_file_that_may_not_grow_is_an_error_that_says_what_is_kept(tmp_path):
    script = """
        import resource, sys
        from limbeck.errors import StoreError
        from limbeck.teacher.store import TeacherStore
        store = TeacherStore.open(sys.argv[1], fingerprint="teacher@1", dim=8)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            store.teach([f"text {i}" for i in range(1000)], "", encode, chunk=100)
        except StoreError as error:
            print(len(store), error)
    """
    writer = python(script, tmp_path)
    output, errors = writer.communicate(timeout=60)
    assert output.startswith("300 no space to write"), errors
    assert "vectors.f16" in output and "the 300 rows taught before are kept" in output and "free some" in output
    store, texts = open_store(tmp_path), texts_named(0, 1000)
    assert len(store) == store.verify() == 300
    assert (store.path / "vectors.f16").stat().st_size == 300 * DIM * 2  # the part written was given back
    np.testing.assert_array_equal(store.gather(store.teach(texts, "", encode)), expected(texts))


def test_a_full_disk_is_an_error_and_the_store_goes_on_once_there_is_space(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs; the test of a file that may not grow covers the rest")
    try:
        store, texts = open_store(tmp_path), texts_named(0, 20_000)
        with pytest.raises(StoreError, match=r"no space to write .*\d+ rows taught before are kept: free some"):
            store.teach(texts, "", encode, chunk=500)
        kept = len(store)
        assert 0 < kept < 20_000 and open_store(tmp_path).verify() == kept
        subprocess.run(["mount", "-o", "remount,size=8m", tmp_path], check=True)
        np.testing.assert_array_equal(store.gather(store.teach(texts, "", encode)), expected(texts))
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)  # the store still maps a file in it
