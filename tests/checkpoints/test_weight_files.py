"""Weights of other trainers are read if they are unambiguous; for any other file the error describes its content."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from unisign_fast.checkpoints.safetensors_file import SafetensorsFile
from unisign_fast.checkpoints.weight_files import read_weights, save_weights, write_torch_file
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.errors import InputError

TABLE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
READ = {
    "bare": TABLE,
    "model": {"model": TABLE, "optimizer": OPTIMIZER, "epoch": 3},
    "key": {"model_state_dict": TABLE},
    "Lightning": {"state_dict": TABLE, "callbacks": {}},
    "DeepSpeed": {"module": TABLE, "optimizer": None, "ds_config": {}},
    "DistributedDataParallel": {"model": {f"module.{name}": tensor for name, tensor in TABLE.items()}},
}
REFUSED = {
    "Namespace": ({"model": TABLE, "args": argparse.Namespace(lr=1)}, "contains argparse.Namespace, which"),
    "two": ({"model": TABLE, "state_dict": TABLE}, "holds several tables of named tensors: model, state_dict"),
    "another key": ({"net": TABLE, "epoch": 3}, "it contains net (dict), epoch (int)"),
    "an optimiser": (OPTIMIZER, "it contains state (dict), param_groups (list)"),
    "a list": ([torch.ones(1)], "is not a table of named tensors"),
    "nothing": ({}, "it contains nothing"),
    "no names": ({1: torch.ones(1)}, "it contains 1 (Tensor)"),
    "a view": ({"a": torch.ones(1).expand(10**12)}, "a: claims to be larger than the file"),
}
NO_WEIGHTS = {
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    "empty": (b"", "not a"),
    "text": (b"no weights", "not a"),
}


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_tables_of_other_trainers(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    assert weights.keys() == TABLE.keys() and all(torch.equal(weights[name], TABLE[name]) for name in TABLE)


@pytest.mark.parametrize("content, expected", REFUSED.values(), ids=REFUSED)
def test_the_message_says_what_else_is_in_the_file(tmp_path, content, expected):
    torch.save(content, tmp_path / "a.pth")
    assert expected in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content, expected", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_files_that_hold_no_weights(tmp_path, suffix, content, expected):
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert expected in refusal(tmp_path / f"a{suffix}")


def test_a_damaged_zip_file(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(TABLE, path)
    os.truncate(path, path.stat().st_size // 2)
    assert "a damaged zip file" in refusal(path)
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', b"null",
               b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}', b'{"a": 3}'],
)  # fmt: skip
def test_headers_of_safetensors(tmp_path, header):
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "is not a complete safetensors file" in refusal(tmp_path / "a.safetensors")


def test_every_flipped_bit_of_saved_weights_is_detected(tmp_path):
    weights = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(True),
        "c": torch.zeros(0, 2),
        "d": torch.ones(1),
    }
    path = tmp_path / "a.safetensors"
    save_weights(path, weights)
    loaded, content = read_weights(path), path.read_bytes()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    data = 8 + int.from_bytes(content[:8], "little")
    for place in range(data, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert "does not match its checksum" in refusal(path)
    path.write_bytes(content.replace(b'"shape":[2,3]', b'"shape":[3,2]'))
    assert "a does not match its checksum" in refusal(path)
    save_file(weights, path)  # as other programs do, and earlier versions
    assert read_weights(path).keys() == weights.keys()


def _zip(path, pickled: bytes, storage: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "data/0": storage}.items():
            archive.writestr(f"a/{name}", content)


def test_pth_files_that_would_take_far_more_memory_than_their_size(tmp_path, monkeypatch):
    path, bomb = tmp_path / "a.pth", b"\x80\x02c%b\nbytearray\nJ\x00\x00\x00\x7f\x85R."  # 2 GiB
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read by torch"))
    for module in (b"builtins", b"__builtin__"):
        _zip(path, bomb % module)
        assert "contains a bytearray" in refusal(path)
    before = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(before) + bomb % b"builtins")  # as torch wrote files before version 1.6
    assert "contains a bytearray" in refusal(path)
    _zip(path, b"\x80\x02N.", bytes(80 * 2**20))
    assert "a zip file that expands to" in refusal(path)


def test_pth_files_with_tensors_that_are_not_plain(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for tensor in (nested, quantized, torch.ones(3, device="meta"), torch.eye(3).to_sparse()):
        torch.save({"a": tensor}, tmp_path / "a.pth")
        assert "a: is sparse, nested, quantized or without data" in refusal(tmp_path / "a.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pth")
    assert "is a TorchScript program" in refusal(tmp_path / "a.pth")


def test_pth_files_with_values_that_are_not_finite(tmp_path):
    """A .pth file has no checksum that torch verifies; training would never recover from one such value."""
    torch.save({"bias": torch.ones(2), "weight": torch.tensor([1.0, float("nan")])}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="a.pth: weight: has values that are not finite; copy the file again"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("write", [save_weights, write_torch_file])
def test_weights_are_readable_by_whoever_the_umask_allows(tmp_path, write):
    before = os.umask(0o022)
    try:
        write(tmp_path / "a.safetensors", TABLE)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644 and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("write", [save_weights, write_torch_file])
def test_a_limit_on_the_size_of_files_is_one_line(tmp_path, write):
    """In a separate process: the limit is the operating system's."""
    script = f"""
import resource, torch
from unisign_fast.checkpoints.weight_files import {write.__name__} as write
from unisign_fast.pipelines.errors import InputError
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write(Path({str(tmp_path)!r}) / "a.safetensors", {{"a": torch.ones(100_000)}})
except InputError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert "a.safetensors: cannot be written (" in run.stdout, run.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"mt5": {"num_layers": 10**6}}, {"mt5": {"d_model": 5.5}}, {"mt5": {"d_model": -1}},
     {"projection_std": float("nan")}, {"label_smoothing": 2}, {"mt5": {"dropout_rate": float("inf")}},
     {"pose_channels": [0, 1, 1, 1]}, {"rgb": 1}, {"head": "ctc"}, {"mt5": {"layers": 3}},
     {"mt5": {"num_heads": True}}, {"head_classes": [1]}],
)  # fmt: skip
def test_impossible_values_of_a_configuration(tmp_path, change):
    path = tmp_path / "config.json"
    ModelConfig().save(path)
    values = json.loads(path.read_text())
    shape = values["mt5"] | change.get("mt5", {})
    path.write_text(json.dumps(values | change | {"mt5": shape}))
    with pytest.raises(InputError, match="config.json: is not a model configuration"):
        ModelConfig.load(path)


def test_safetensors_are_read_as_the_library_does_and_damage_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): (torch.rand(3, 5) * 2).to(dtype) for dtype in types}
    tensors |= {"empty": torch.zeros(0, 4), "scalar": torch.ones(())}
    save_file(tensors, path, metadata={"format": "pt"})
    read = read_weights(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 8)  # a mapped file would end the process with SIGBUS
        with pytest.raises(InputError, match="weights.safetensors: is not a complete safetensors file .it ends within"):
            [file.read(name) for name in file.names]
    with pytest.raises(InputError, match="is not a complete safetensors file .its 386 bytes of tensors do not match"):
        read_weights(path)
    header = b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match="the header's entry 'a' does not describe a tensor"):
        read_weights(path)
