"""What every background thread that prepares batches starts with."""

import torch
from threadpoolctl import threadpool_limits


def compute_alone() -> None:
    """Has torch use no other thread for what it computes in this one.

    OpenMP gives every thread that computes a team of its own. As soon as all teams together have more threads than
    there are cores, its threads no longer wait for work in a loop but sleep, the training step's as well: each of
    thousands of operations then waits for the kernel to wake them.
    """
    torch.get_num_threads()  # sets this thread's number as the process has it, once: what is set before is lost
    threadpool_limits(1, "openmp")
