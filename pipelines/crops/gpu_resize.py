"""All hand crops of a batch cut out of decoded frames on a GPU and resized, in one Triton launch.

Resizing is PIL's antialiased bicubic filter (a = -0.5), columns first, rounded to bytes between both passes. What lies
outside the picture is black. Importing this module imports triton.
"""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16  # output pixels a side of a program; the smallest matrix product
COLUMNS = 32  # source columns of a step
FIELDS = 6  # of a crop in the table: address of its frame, height and width of the picture, corner x and y, side


@triton.jit
def _weights(source, output, side, S: tl.constexpr):
    """The filter's weights [source, output], not normalized."""
    scale = side.to(tl.float32) / S
    widening = tl.maximum(scale, 1.0)
    centre = (output.to(tl.float32) + 0.5)[None, :] * scale
    first = tl.floor(tl.maximum(centre - 2 * widening + 0.5, 0))
    end = tl.minimum(tl.floor(centre + 2 * widening + 0.5), side.to(tl.float32))
    at = source.to(tl.float32)[:, None]
    t = tl.abs(at - centre + 0.5) / widening
    inner = (1.5 * t - 2.5) * t * t + 1
    outer = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weight = tl.where(t < 1, inner, tl.where(t < 2, outer, 0))
    return tl.where((at >= first) & (at < end), weight, 0)


@triton.jit
def _reach(tile, side, S: tl.constexpr, TILE: tl.constexpr):
    """The source pixels that a tile of the output depends on; one extra pixel on each side is harmless."""
    scale = side.to(tl.float32) / S
    support = 2 * tl.maximum(scale, 1.0) + 1
    first = tl.maximum(tile * TILE * scale - support, 0).to(tl.int32)
    return first, tl.minimum((tile + 1) * TILE * scale + support, side.to(tl.float32)).to(tl.int32)


@triton.jit
def _byte(x):
    """Rounded and clipped to [0, 255], still float32."""
    return tl.floor(tl.minimum(tl.maximum(x, 0), 255) + 0.5)


@triton.jit
def cut_and_resize(
    table, out,
    S: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """out [n, 3, S, S] uint8; a program has one tile of one crop."""
    crop, tiles = tl.program_id(0), tl.cdiv(S, TILE)
    tile_y, tile_x = tl.program_id(1) // tiles, tl.program_id(1) % tiles
    entry = table + crop * FIELDS
    pixels = tl.load(entry).to(tl.pointer_type(tl.uint8))
    height, width = tl.load(entry + 1).to(tl.int32), tl.load(entry + 2).to(tl.int32)
    x0, y0 = tl.load(entry + 3).to(tl.int32), tl.load(entry + 4).to(tl.int32)
    side = tl.load(entry + 5).to(tl.int32)
    out_y, out_x = tile_y * TILE + tl.arange(0, TILE), tile_x * TILE + tl.arange(0, TILE)
    first_y, end_y = _reach(tile_y, side, S, TILE)
    first_x, end_x = _reach(tile_x, side, S, TILE)
    for channel in tl.static_range(3):
        result = tl.zeros([TILE, TILE], tl.float32)
        total_y = tl.zeros([TILE], tl.float32)
        for start_y in range(first_y, end_y, TILE):
            y = start_y + tl.arange(0, TILE)
            row = tl.zeros([TILE, TILE], tl.float32)
            total_x = tl.zeros([TILE], tl.float32)
            for start_x in range(first_x, end_x, COLUMNS):
                x = start_x + tl.arange(0, COLUMNS)
                at_y, at_x = (y + y0)[:, None], (x + x0)[None, :]
                inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
                values = tl.load(pixels + (at_y * width + at_x) * 3 + channel, inside, 0).to(tl.float32)
                weight = _weights(x, out_x, side, S)
                row += tl.dot(values, weight, input_precision="ieee")
                total_x += tl.sum(weight, 0)
            weight = _weights(y, out_y, side, S)
            row = _byte(row / tl.where(total_x == 0, 1, total_x)[None, :])
            result += tl.dot(tl.trans(weight), row, input_precision="ieee")
            total_y += tl.sum(weight, 0)
        result = _byte(result / tl.where(total_y == 0, 1, total_y)[:, None])
        at = out + ((crop * 3 + channel) * S + out_y[:, None]) * S + out_x[None, :]
        tl.store(at, result.to(tl.uint8), (out_y[:, None] < S) & (out_x[None, :] < S))


def gpu_crops(
    pictures: Sequence[Tensor], frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray], size: int
) -> list[Tensor]:
    """Crops [n, 3, size, size] uint8 of each video, all by one launch; they are views of one tensor.

    pictures: one [frames, H, W, 3] uint8 tensor per video, contiguous, which must stay alive until the launch has
    finished; frames: the picture index of each of its n crops; boxes: [n, 4] int64 (boxes.py).
    """
    table = np.concatenate([_entries(*video) for video in zip(pictures, frames, boxes)])
    device = pictures[0].device
    out = torch.empty(len(table), 3, size, size, dtype=torch.uint8, device=device)
    entries = torch.from_numpy(table)
    if device.type == "cuda":
        entries = entries.pin_memory().to(device, non_blocking=True)
    tiles = triton.cdiv(size, TILE)
    if len(table):
        sizes = {"S": size, "TILE": TILE, "COLUMNS": COLUMNS, "FIELDS": FIELDS}
        with torch.cuda.device_of(out):  # Triton launches on the current device
            cut_and_resize[len(table), tiles * tiles](entries, out, **sizes, num_warps=2)
    return list(out.split([len(video_frames) for video_frames in frames]))


def _entries(pictures_FHW3: Tensor, frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Rows of the table, int64 [n, FIELDS]."""
    assert pictures_FHW3.is_contiguous() and pictures_FHW3.dtype == torch.uint8
    _, height, width, channels = pictures_FHW3.shape
    table = np.empty((len(frames), FIELDS), np.int64)
    table[:, 0] = pictures_FHW3.data_ptr() + frames.astype(np.int64) * (height * width * channels)
    table[:, 1:3] = height, width
    table[:, 3:5] = boxes[:, :2]
    table[:, 5] = boxes[:, 2] - boxes[:, 0]
    return table
