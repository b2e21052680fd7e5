"""Pickles of arrays and containers are read, and nothing in a pickle runs."""

import gzip
import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from fuzz_pickles import fuzz
from refusals import refusal

from unisign_fast.pipelines.converters.pickle_machine import ROOM, ROOM_PER_BYTE
from unisign_fast.pipelines.converters.pickle_opcodes import run
from unisign_fast.pipelines.converters.pickle_records import PickleError
from unisign_fast.pipelines.converters.safe_pickle import load_numpy, load_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_of_every_protocol(tmp_path, protocol):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    arrays = [array, array.T, np.float32(0.5), np.int64(3)]
    value = OrderedDict(a=arrays, b=({1, 2}, frozenset("x"), b"\xe9", "é", None))
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    loaded = load_pickle(path)
    assert type(loaded) is OrderedDict and loaded["b"] == value["b"]
    for got, expected in zip(loaded["a"], value["a"], strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function, argument", [(os.mkdir, "made"), (eval, "open('made', 'w')"), (np.load, "made")])
def test_a_forbidden_global_does_not_run(tmp_path, monkeypatch, protocol, function, argument):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "attack.pkl"
    path.write_bytes(pickle.dumps({"keypoints": Attack(function, argument)}, protocol))
    assert "attack.pkl: names " in refusal(load_pickle, path)
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_grows_too_large(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(pickle.dumps(bytes(10**6))))
    assert "is larger than 1000 bytes" in refusal(load_pickle, path, compressed=True, max_bytes=1000)


def test_numpy_files_of_arrays_and_of_objects(tmp_path):
    array, ragged = np.arange(6).reshape(2, 3), np.empty(2, object)
    ragged[:] = [np.zeros((1, 2)), np.ones((2, 2))]
    np.save(tmp_path / "array.npy", array)
    np.save(tmp_path / "dict.npy", {"a": array})
    np.savez_compressed(tmp_path / "arrays.npz", a=array, ragged=ragged)
    np.testing.assert_array_equal(load_numpy(tmp_path / "array.npy"), array)
    np.testing.assert_array_equal(load_numpy(tmp_path / "dict.npy")["a"], array)
    loaded = load_numpy(tmp_path / "arrays.npz")
    np.testing.assert_array_equal(loaded["a"], array)
    assert [part.tolist() for part in loaded["ragged"]] == [part.tolist() for part in ragged]
    assert "is larger than 100 bytes" in refusal(load_numpy, tmp_path / "arrays.npz", max_bytes=100)
    assert "is larger than 100 bytes" in refusal(load_numpy, tmp_path / "array.npy", max_bytes=100)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_damaged_and_forbidden_numpy_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save = np.save if name == "a.npy" else np.savez
    save(tmp_path / name, np.arange(1000))
    for size in (1000, 20, 0):
        os.truncate(tmp_path / name, size)
        assert f"{name}: is not a complete" in refusal(load_numpy, tmp_path / name)
    attack = np.empty(1, object)
    attack[0] = Attack(os.mkdir, "made")
    save(tmp_path / name, attack)
    assert "names posix.mkdir" in refusal(load_numpy, tmp_path / name)
    assert not (tmp_path / "made").exists()
    assert "cannot be read" in refusal(load_numpy, tmp_path / "none.npy")


def test_zip_entries_that_are_larger_than_they_say(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(150 * 2**20))
    path.write_bytes(path.read_bytes().replace((150 * 2**20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        assert "is not a complete .npz file" in refusal(load_numpy, path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", b"")
    assert "a compression method that numpy" in refusal(load_numpy, path)


def raw(*parts):
    """Opcodes, and values as one opcode each or more."""
    return b"".join(x if isinstance(x, bytes) else pickle.dumps(x[0], 3)[2:-1] for x in parts)


DTYPE = raw(b"cnumpy\ndtype\n", [("f8", False, True)], b"Rq\x10")
STATE = (3, "<", None, None, None, -1, -1, 0)
EMPTY_ARRAY = raw(b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n", [(0,)], [b"b"], b"tRq\x11")
TEXT_DTYPE = raw(b"cnumpy\ndtype\n", [("U0", False, True)], b"R")
DOUBLED = b"".join(b"0](" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60))
OLD_STRING = b"T" + (2**17).to_bytes(4, "little") + bytes(2**17) + b"q\x120"


def _array_of_two(number: int) -> bytes:
    """An array of the two objects in the list with this number in the memo."""
    return raw(EMPTY_ARRAY, b"(K\x01", [(2,)], b"h\x10\x89h", bytes([number]), b"tb")


HOSTILE = {
    "a dtype that grows after an array was made of it": (
        raw(EMPTY_ARRAY, b"(K\x01", [(1,)], DTYPE, [STATE], b"b\x89", [bytes(8)], b"tb0h\x10", [STATE], b"b0h\x11."),
        "a second or another state of a dtype",
    ),
    "an array that is built twice": (
        raw(EMPTY_ARRAY, (b"(K\x01" + raw([(1,)], DTYPE, b"\x89", [bytes(8)], b"tb")) * 2, b"."),
        "a second or another state of an array",
    ),
    "an item of an array": (raw(EMPTY_ARRAY, b"K\x00K\x00s."), "a ArrayRecord where a dict belongs"),
    "an array by its constructor": (raw(b"cnumpy\nndarray\n", [((2**40,),)], b"R."), "created by its constructor"),
    "an array beyond its bytes": (
        raw(EMPTY_ARRAY, b"(K\x01", [(2,)], DTYPE, b"\x89", [bytes(8)], b"tb."),
        "an array (2,) of float64 in 8 bytes",
    ),
    "an empty array that is long": (
        raw(EMPTY_ARRAY, b"(K\x01", [(2**40, 0)], DTYPE, b"\x89", [b""], b"tb."),
        "too much memory",
    ),
    "attributes of an OrderedDict": (raw(b"ccollections\nOrderedDict\n)R", [{"a": 1}], b"b."), "a OrderedDict where"),
    "a memo of four billion": (b"\x80\x02Nr\xff\xff\xff\xff.", None),
    "a string of four billion": (b"\x80\x02X\xff\xff\xff\xff.", "it ends before byte"),
    "a number of many digits": (b"I" + b"9" * 5000 + b"\n.", "5000 digits"),
    "one million dicts": (b"(" + b"}" * 10**6 + b"l.", "far more memory than its size"),
    "lists of the same list": (
        raw(
            b"]q\x00",
            *(b"0](" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60)),
            b".",
        ),
        "too much memory",
    ),
    "a list in itself": (b"]q\x00h\x00a.", "contains itself"),
    "lists in lists": (b")" + b"\x85" * 100_000 + b".", "nested deeper"),
    "half of a surrogate pair": (b"V\\ud800\n.", "UnicodeEncodeError"),
    "a global as a value": (b"cnumpy\nndarray\n.", "a function or a dtype as a value"),
    "a list as a key": (b"}]Ns.", "a key that is a list"),
    "fields": (raw(b"cnumpy\ndtype\n", [("V8", False, True)], b"R."), "the dtype 'V8'"),
    "a global that is named by lists of the same list": (
        raw(b"]q\x00", DOUBLED, b"h\x3ch\x3c\x93."),
        "a global whose name is not text",
    ),
    "a dtype that is named by lists of the same list": (
        raw(b"]q\x00", DOUBLED, b"0cnumpy\ndtype\nh\x3c\x85R."),
        "a dtype of no text",
    ),
    "a global that is named by tuples in tuples": (b")" + b"\x85" * 100_000 + b"Va\n\x93.", "name is not text"),
    "arrays of one list of objects": (
        raw(b"((" + b"N" * 10**5 + b"lq\x12", b"0cnumpy\ndtype\n", [("O8", False, True)], b"Rq\x100")
        + raw(EMPTY_ARRAY, b"(K\x01", [(10**5,)], b"h\x10\x89h\x12tb") * 1000
        + b"l.",
        "too much memory",
    ),
    "keys that are one long tuple": (
        b"((" + b"N" * 10**6 + b"tq\x01" + b"}h\x01Ns" * 1000 + b"l.",
        "far more memory than its size",
    ),
    "arrays of texts of no characters": (
        raw(b"(", (EMPTY_ARRAY + raw(b"(K\x01", [(10**6,)], TEXT_DTYPE, b"\x89", [b""], b"tb")) * 50, b"l."),
        "too much memory",
    ),
    "a float of many digits": (b"F" + b"x\x01" * 10**6 + b"\n.", "a number of 2000000 digits"),
    "a dict of many pairs of one byte": (b"(" + b"N" * 3 * 10**6 + b"d.", "far more memory than its size"),
    "tuples of one hash as keys": (
        raw([{tuple(-1 - (n >> bit & 1) for bit in range(14)): 0 for n in range(1000)}], b"."),
        "keys that are not text",
    ),
    "one old string in many places": (OLD_STRING + b"(" + b"h\x12" * 2000 + b"l.", "too much memory"),
    "one old string as the key of many dicts": (OLD_STRING + b"(" + b"}h\x12Ns" * 2000 + b"l.", "too much memory"),
    "arrays of one text": (
        raw(["a" * 2**17], b"q\x120", DTYPE, b"0(")
        + raw(EMPTY_ARRAY, b"(K\x01", [(2**14,)], b"h\x10\x89h\x12tb") * 1000
        + b"l.",
        "a str instead of an array's bytes",
    ),
    "arrays of the same two arrays": (
        raw(b"cnumpy\ndtype\n", [("O8", False, True)], b"Rq\x100(NNlq\x120")
        + b"".join(b"(" + _array_of_two(n) * 2 + b"lq" + bytes([n + 1]) + b"0" for n in range(0x12, 0x40))
        + b"h\x40.",
        "too much memory",
    ),
    "an opcode for objects": (b"\x80\x02N)\x81.", "the opcode 0x81"),
    "keys of one hash": (raw([{(2**61 - 1) * n: 0 for n in range(1, 20_000)}], b"."), "keys that are not text"),
}


@pytest.mark.parametrize("content, expected", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_take_little_memory_and_touch_none(tmp_path, content, expected):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        if expected is None:
            assert load_pickle(path) is None
        else:
            assert expected in refusal(load_pickle, path)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_what_numpy_1_and_python_2_write(tmp_path):
    value = {"a": np.arange(300.0).reshape(2, 150), "b": np.float32(0.5), "c": np.zeros((0, 3)), "d": 7 * 10**12}
    path = tmp_path / "a.pkl"
    for protocol in (0, 1, 2):
        content = pickle.dumps(value, protocol).replace(b"numpy._core", b"numpy.core")
        path.write_bytes(content)
        loaded = load_pickle(path)
        assert all(np.array_equal(loaded[name], value[name]) for name in value) and loaded.keys() == value.keys()
    data = np.arange(200, dtype="<i2").tobytes()  # Python 2 has bytes and texts in one type
    dtype = b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    array = b"(I1\n(I200\nt" + dtype + b"I00\nT" + len(data).to_bytes(4, "little") + data + b"tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    path.write_bytes(b"(dS'k'\n" + start + array + b"sS't'\nU\x05\xc3\xa9\xc3\xa8!sS'l'\nL12L\ns.")
    loaded = load_pickle(path)
    assert np.array_equal(loaded["k"], np.arange(200)) and (loaded["t"], loaded["l"]) == ("éè!", 12)
    assert type(loaded["t"]) is str and [type(key) for key in loaded] == [str] * 3


def test_arrays_in_any_order_of_axes_and_shared_ones(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    value = [array, array, np.array([True, False]), np.array(["a", "bc"]), np.array([[1, None], ["a", [2]]], object)]
    path = tmp_path / "a.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(value, protocol))
        loaded = load_pickle(path)
        for got, expected in zip(loaded, value, strict=True):
            assert got.dtype == expected.dtype and np.array_equal(got, expected)
        assert loaded[0] is loaded[1]


def test_shared_lists_are_charged_although_they_use_one_place_of_the_memo():
    lists = b"(" + b"]q\x00h\x000" * 1000 + b"l."
    with pytest.raises(PickleError, match="far more memory"):
        run(lists, (180_000 - ROOM) // ROOM_PER_BYTE)  # a set entry and its integer take 120 bytes, a list 60
    assert run(lists, 0)[0] == [[]] * 1000


def test_pairs_that_also_stay_outside_their_dict(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(raw(b"((", ["a"], [np.arange(3)], b"\x86lq\x10cbuiltins\ndict\nh\x10\x85Rl."))
    pairs, table = load_pickle(path)
    np.testing.assert_array_equal(table["a"], np.arange(3))
    assert pairs[0][1] is table["a"]


def test_generated_pickles_are_read_or_refused():
    outcomes = fuzz(300, seed=1)
    assert outcomes.keys() == {"read", "refused"} and outcomes["read"] > 10


def test_long_clips_of_nested_lists_of_integers_are_read(tmp_path):
    """[x, y] in small integers takes 8 bytes in a pickle, and forty times that in memory."""
    frames = [[[[t % 200, j] for j in range(133)]] for t in range(3500)]
    path = tmp_path / "clip.pkl"
    path.write_bytes(pickle.dumps({"keypoints": frames}))
    assert load_pickle(path) == {"keypoints": frames}


def test_a_compressed_file_may_not_expand_without_limit(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(bytes(2**20)) * 300)
    assert "is larger than" in refusal(load_pickle, path, compressed=True)
    np.savez_compressed(tmp_path / "a.npz", keypoints=np.zeros(40_000_000))
    assert "is larger than" in refusal(load_numpy, tmp_path / "a.npz")
    for bomb in (b"]" * 2**24 + b".", b"(0" * 2**24 + b"N."):  # memory, time
        path.write_bytes(gzip.compress(bomb, 1))
        tracemalloc.start()
        try:
            assert "memory" in (said := refusal(load_pickle, path, compressed=True)) or "is larger than" in said
            assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
        finally:
            tracemalloc.stop()
    objects = io.BytesIO()
    np.save(objects, np.array([None]))
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", objects.getvalue().partition(b"\n")[0] + b"\n" + bomb)
    assert "holds a pickle of" in refusal(load_numpy, tmp_path / "c.npz")
    np.savez_compressed(tmp_path / "b.npz", keypoints=np.zeros((20_000, 133, 3)))  # nobody for 13 minutes
    assert load_numpy(tmp_path / "b.npz")["keypoints"].shape == (20_000, 133, 3)
