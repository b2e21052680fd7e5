"""Pickles of arrays and containers are read, and nothing in a pickle runs."""

import gzip
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from pipelines.errors import InputError
from pipelines.safe_pickle import load_pickle


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
