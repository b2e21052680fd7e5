"""Watches the memory accesses of Triton kernels in the interpreter for faults that show only on a GPU: accesses outside
of the tensors, and races. On a GPU all programs of a launch run at once, and the threads of a program see each other's
stores only after a barrier.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

NONE = np.empty(0, np.uint64)


class Watch:
    """The accesses of one launch; adds a line to `faults` for each kind of fault."""

    def __init__(self, faults: list[str], kernel: str, arguments: list):
        self.faults, self.kernel = faults, kernel
        tensors = [x for x in arguments if hasattr(x, "data_ptr")]
        self.ranges = [(np.uint64(t.data_ptr()), np.uint64(t.data_ptr() + t.nbytes)) for t in tensors]
        self.loads, self.stores = [np.empty((2, 0), np.uint64)], [np.empty((2, 0), np.uint64)]  # address, program
        self.stored = NONE  # by the current program since its last barrier
        self.program = -1

    def begin_program(self) -> None:
        """The next program of the grid starts."""
        self.program += 1
        self.barrier()

    def barrier(self) -> None:
        """From here on, the program sees all it has stored."""
        self.stored = NONE

    def load(self, addresses: np.ndarray, size: int) -> None:
        """One load, `size` bytes from each address."""
        self._check_inside(addresses, size, "load")
        if np.isin(addresses, self.stored).any():
            self._fault("a program loads what it has stored, without a barrier between")
        self.loads.append(self._by_program(addresses))

    def store(self, addresses: np.ndarray, values: np.ndarray) -> None:
        """One store of a value to each address."""
        self._check_inside(addresses, values.itemsize, "store")
        order = np.argsort(addresses)
        addresses, values = addresses[order], values[order]
        if ((addresses[1:] == addresses[:-1]) & (values[1:] != values[:-1])).any():
            self._fault("one store has two values for one place")
        self.stored = np.union1d(self.stored, addresses)
        self.stores.append(self._by_program(addresses))

    def end(self) -> None:
        """The launch has ended: compare its programs."""
        stored, by = np.unique(np.concatenate(self.stores, 1), axis=1)
        if (stored[1:] == stored[:-1]).any():
            self._fault("two programs store in one place")
        loaded, reader = np.unique(np.concatenate(self.loads, 1), axis=1)
        at = np.searchsorted(stored, loaded)
        shared = np.isin(loaded, stored)
        if (by[at[shared]] != reader[shared]).any():
            self._fault("a program loads what another one stores")

    def _by_program(self, addresses: np.ndarray) -> np.ndarray:
        return np.stack([addresses, np.full_like(addresses, self.program)])

    def _check_inside(self, addresses: np.ndarray, size: int, access: str) -> None:
        inside = np.zeros(len(addresses), bool)
        for begin, end in self.ranges:
            inside |= (addresses >= begin) & (addresses + np.uint64(size) <= end)
        if not inside.all():
            self._fault(f"a {access} outside of all tensors")

    def _fault(self, what: str) -> None:
        if (line := f"{self.kernel}: {what}") not in self.faults:
            self.faults.append(line)


@contextmanager
def watched_memory() -> Iterator[list[str]]:
    """Within the block, the accesses of kernels in the interpreter are watched; the list receives what is wrong."""
    faults: list[str] = []
    watch: Watch
    prepare, run = GridExecutor._init_args_hst, GridExecutor.__call__
    place, load = InterpreterBuilder.set_grid_idx, InterpreterBuilder.create_masked_load
    store, barrier = InterpreterBuilder.create_masked_store, InterpreterBuilder.create_barrier

    def preparing(self, arguments, named):
        nonlocal watch
        copies = prepare(self, arguments, named)
        watch = Watch(faults, self.fn.__name__, copies[0])
        return copies

    def running(self, *arguments, **named):
        run(self, *arguments, **named)
        watch.end()

    def placing(self, *index):
        watch.begin_program()
        place(self, *index)

    def loading(self, pointers, mask, *rest):
        result = load(self, pointers, mask, *rest)
        watch.load(pointers.data[_active(mask, pointers)], result.data.itemsize)
        return result

    def storing(self, pointers, value, mask, *rest):
        active = _active(mask, pointers)
        watch.store(pointers.data[active], np.broadcast_to(value.data, pointers.data.shape)[active])
        return store(self, pointers, value, mask, *rest)

    def waiting(self):
        watch.barrier()
        barrier(self)

    with (
        mock.patch.multiple(GridExecutor, _init_args_hst=preparing, __call__=running),
        mock.patch.multiple(
            InterpreterBuilder, set_grid_idx=placing, create_masked_load=loading, create_masked_store=storing,
            create_barrier=waiting,
        ),
    ):  # fmt: skip
        yield faults


def _active(mask, pointers) -> np.ndarray:
    return np.broadcast_to(mask.data.astype(bool), pointers.data.shape)
