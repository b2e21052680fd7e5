"""Writes scalars for TensorBoard, in the thread that logs them.

torch's SummaryWriter writes from a background thread. If the disk is full once, that thread dies, and training blocks
forever as soon as its queue is full.
"""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class TensorBoardLog:
    """A file of events in `folder`. Every method raises OSError if the disk fails."""

    def __init__(self, folder: Path, first_step: int):
        """Makes TensorBoard discard what earlier files contain from `first_step` on."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}.{first_step}"
        self._records = RecordWriter(open(folder / name, "wb"))
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        self._records.flush()

    def add(self, group: str, values: dict[str, float], step: int) -> None:
        """Log values as GROUP/NAME."""
        scalars = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
