"""A run's logs go to disk, or one line says why they cannot."""

import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.metrics_logger import MetricsLogger
from unisign_fast.utils.distributed import Ranks

RANKS = Ranks(0, 1, torch.device("cpu"))


VALUES = torch.tensor([1.5, 1.0, 0.0, 8.0, 0.0])  # loss, gradient norm, bad, clips, stop signals


def refusal(run, first_step=0, steps=1, before=lambda: None):
    with pytest.raises(InputError) as caught:
        with MetricsLogger(run, RANKS).open(first_step, steps) as logger:
            before()
            for step in range(steps):
                logger.step(step + 1, {}, VALUES)
            logger.fetch()
    assert str(caught.value).endswith("the same command resumes") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tensorboard_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "tensorboard").symlink_to("/proc", target_is_directory=True)  # root cannot create files there, either
    assert f"{tmp_path}: cannot be written (No such file" in refusal(tmp_path)


def test_a_disk_that_tensorboard_fills_up(tmp_path, monkeypatch):
    """Only TensorBoard's file fails, at any step; training neither hangs nor continues."""

    def fill():
        monkeypatch.setattr(RecordWriter, "write", lambda self, data: os.write(full, data))

    full = os.open("/dev/full", os.O_WRONLY)
    try:
        said = refusal(tmp_path, steps=100, before=fill)
    finally:
        os.close(full)
    assert said == f"{tmp_path}: cannot be written (No space left on device); free disk space; the same command resumes"


def test_what_tensorboard_shows(tmp_path):
    for first_step in (0, 1):  # stopped after step 2, resumed after step 1
        with MetricsLogger(tmp_path, RANKS).open(first_step, 3) as logger:
            for step in (first_step + 1, first_step + 2):
                logger.step(step, {"learning_rate": 0.25}, VALUES + first_step)
            logger.fetch()
            logger.scores(0, {"bleu4": 12.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.5), (2, 2.5), (3, 2.5)]
    assert events.Scalars("scores/bleu4")[-1].value == 12.5
    assert {"train/learning_rate", "train/clips_per_s"} < set(events.Tags()["scalars"])
