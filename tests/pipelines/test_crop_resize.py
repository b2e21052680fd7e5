"""Cutting and resizing of crops, by torch and by the GPU kernel, compared with PIL's."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unisign_fast.pipelines.crops.gpu_resize import gpu_crops
from unisign_fast.pipelines.crops.sources import resize


@pytest.mark.parametrize("side", [3, 40, 112, 130, 260])
def test_resizing_is_that_of_pil(side):
    rng = np.random.default_rng(0)
    picture = np.asarray(Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((side, side)))
    ours = resize(torch.from_numpy(picture.copy())[None], 112)[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(picture).resize((112, 112), Image.Resampling.BICUBIC))
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2 and difference.mean() < 0.2


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("side", "size"), [(3, 112), (40, 56), (56, 56), (130, 40), (260, 24), (30, 24)])
def test_the_gpu_kernel_resizes_as_pil_does(side, size):
    """Noise, whose overshoots are clipped between the passes; in the interpreter where there is no GPU."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (1, side, side, 3), np.uint8)
    boxes = np.array([[0, 0, side, side]])
    (ours,) = gpu_crops([torch.from_numpy(picture).to(DEVICE)], [np.zeros(1, int)], [boxes], size)
    theirs = np.asarray(Image.fromarray(picture[0]).resize((size, size), Image.Resampling.BICUBIC))
    difference = np.abs(ours[0].permute(1, 2, 0).cpu().numpy().astype(int) - theirs)
    assert difference.max() <= 2 and difference.mean() < 0.2


def test_the_gpu_kernel_cuts_all_crops_of_several_videos_at_once():
    """Each from its own frame and place; black outside; a video without crops."""
    rng = np.random.default_rng(1)
    pictures = [
        torch.from_numpy(rng.integers(1, 255, (n, h, w, 3), np.uint8)) for n, h, w in [(3, 40, 60), (1, 25, 31)]
    ]
    frames = [np.array([2, 0, 2]), np.zeros(0, int)]
    boxes = [np.array([(-8, -4, 22, 26), (40, 20, 70, 50), (-90, 0, -60, 30)]), np.zeros((0, 4), np.int64)]
    ours, none = gpu_crops([video.to(DEVICE) for video in pictures], frames, boxes, 24)
    assert none.shape == (0, 3, 24, 24) and not ours[2].any()
    for row, (frame, box) in enumerate(zip(frames[0], boxes[0])):
        patch = Image.fromarray(pictures[0][frame].numpy()).crop(tuple(box.tolist()))
        theirs = np.asarray(patch.resize((24, 24), Image.Resampling.BICUBIC))
        difference = np.abs(ours[row].permute(1, 2, 0).cpu().numpy().astype(int) - theirs)
        assert difference.max() <= 2 and difference.mean() < 0.2


def test_the_gpu_kernel_compiles_without_spills():
    script = """if True:
        import torch
        from unisign_fast.kernels.aot import compile_launch
        from unisign_fast.kernels.launch import Launch
        from unisign_fast.pipelines.crops.gpu_resize import COLUMNS, FIELDS, TILE, cut_and_resize
        constants = dict(S=112, TILE=TILE, COLUMNS=COLUMNS, FIELDS=FIELDS)
        signature = ("table", "*i64"), ("out", "*u8"), *((name, "constexpr") for name in constants)
        launch = Launch(cut_and_resize, signature, tuple(constants.items()), (), ("table", "out"), 2, 3, (1,), {}, 0)
        for capability in (80, 90, 100):
            row = compile_launch("crops", torch.uint8, launch, capability)
            print(capability, row.registers, row.spilled, row.shared, row.fits)
    """
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    run = [sys.executable, "-c", script]
    result = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["True"] * 3, result.stdout


def test_triton_is_imported_by_crops_on_a_gpu_only():
    script = "import sys, unisign_fast.pipelines.crops.sources; print('triton' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
