"""Joins the stores of many writers into one, with their hand crops."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ..errors import InputError
from .crop_store import CropStore, CropStoreWriter, crops_folder
from .keypoint_store import KeypointStore, KeypointStoreWriter


def merge_stores(stores: list[KeypointStore], out: Path, compress: bool = False) -> KeypointStore:
    """Writes the store `out` with all clips of `stores`, in their order; videos stay where they are.

    Crops are included if every store has them for all its clips, in the same size and quality. Raises InputError if
    keypoints are of different origin, or two clips have one id.
    """
    source = stores[0].keypoint_source
    for store in stores[1:]:
        if store.skeleton is not stores[0].skeleton:
            problem = f"is {store.skeleton.name}, that of {stores[0].path} is {stores[0].skeleton.name}"
            raise InputError(store.path / "store.json: skeleton", problem, "merge stores of one skeleton")
        if store.keypoint_source != source:
            problem = f"is {store.keypoint_source}, that of {stores[0].path} is {source}"
            remedy = "keep stores of different origin apart: training reads several"
            raise InputError(store.path / "store.json: keypoint_source", problem, remedy)
    crops = _crops(stores)
    console = Console(stderr=True)
    with KeypointStoreWriter(out, source, skeleton=stores[0].skeleton, compress=compress) as writer:
        clips = [(store, number) for store in stores for number in range(len(store.clips))]
        for store, number in track(clips, "merging clips", console=console, disable=not console.is_terminal):
            clip = store.clips[number]
            writer.add(
                store.packed_keypoints(clip),
                id=clip.id,
                split=clip.split,
                language=clip.language,
                text=clip.text,
                fps=clip.fps,
                width=clip.width,
                height=clip.height,
                gloss=clip.gloss,
                source=str(store.video(clip).resolve()) if clip.source else "",
                translations=clip.translations,
                tags=clip.tags,
                video_start=clip.video_start,
                video_frames=clip.video_frames,
                box=clip.box,
            )
    merged = KeypointStore.open(out)
    if crops:
        _merge_crops(stores, crops, merged)
    return merged


def _crops(stores: list[KeypointStore]) -> list[CropStore]:
    """The stores' crops, or [] if they are incomplete or differ in size or quality."""
    if not all((crops_folder(store) / "crops.json").exists() for store in stores):
        return []
    crops = [CropStore(store) for store in stores]
    complete = all(cut.clips == len(store.clips) for cut, store in zip(crops, stores))
    return crops if complete and len({(cut.size, cut.quality) for cut in crops}) == 1 else []


def _merge_crops(stores: list[KeypointStore], crops: list[CropStore], merged: KeypointStore) -> None:
    writer = CropStoreWriter(merged, crops[0].size, crops[0].quality)
    for store, cut in zip(stores, crops):
        for clip in store.clips:
            if clip.id in cut.left_out:
                writer.leave_out(cut.left_out[clip.id])
            else:
                rows = np.arange(2 * clip.frames)
                writer.add([file.tobytes() for file in cut.jpegs(clip, rows // 2, rows % 2)])
    writer.commit()
