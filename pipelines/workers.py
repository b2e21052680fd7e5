"""Initializers for the worker processes of preparation commands and for batch-loading threads."""

import multiprocessing
import os
import threading

import torch
from threadpoolctl import threadpool_limits


def end_with_parent() -> None:
    """Ends this process when its parent ends; otherwise it would wait for work forever after the parent is killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compute_alone(device: torch.device) -> None:
    """Limits torch to a single OpenMP thread for work in the calling thread, and makes `device` its current GPU.

    A thread starts with GPU 0, whichever the process has chosen: Triton would launch its kernels there, and returning
    from a stream of another GPU would take memory on GPU 0 for a second context.

    OpenMP creates a team for every thread that computes. Once all teams together exceed the number of cores, their
    threads sleep instead of spinning, including those of the training step: each of thousands of operations then waits
    for the operating system to wake them.
    """
    torch.get_num_threads()  # initializes this thread's count from the process; it would overwrite a limit set earlier
    threadpool_limits(1, "openmp")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
