"""Pickles of arrays and containers are read, and nothing in a pickle runs."""

import gzip
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from unisign_fast.pipelines.converters.safe_pickle import load_numpy, load_pickle
from unisign_fast.pipelines.errors import InputError


def refusal(action, *arguments, **options):
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        assert f"{name}: is not a whole" in refusal(load_numpy, tmp_path / name)
    attack = np.empty(1, object)
    attack[0] = Attack(os.mkdir, "made")
    save(tmp_path / name, attack)
    assert "names posix.mkdir" in refusal(load_numpy, tmp_path / name)
    assert not (tmp_path / "made").exists()
    assert "cannot be read" in refusal(load_numpy, tmp_path / "none.npy")
