"""What worker processes of a preparation command, and threads that prepare batches, start with."""

import multiprocessing
import os
import threading

import torch
from threadpoolctl import threadpool_limits


def end_with_parent() -> None:
    """Ends this process when its parent ends: left alone by a killed one, it would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compute_alone() -> None:
    """Has torch use no other thread for what it computes in this one.

    OpenMP gives every thread that computes a team of its own. As soon as all teams together have more threads than
    there are cores, its threads no longer wait for work in a loop but sleep, the training step's as well: each of
    thousands of operations then waits for the kernel to wake them.
    """
    torch.get_num_threads()  # sets this thread's number as the process has it, once: what is set before is lost
    threadpool_limits(1, "openmp")
