"""Distributes work over processes and machines with Ray Data, one row per item: keys and file names, never pixels.

Ray runs on this machine, or on the cluster that the environment variable RAY_ADDRESS names. It restarts workers that
die and retries their items without limit; makers.py counts the attempts.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from .makers import Maker

OBJECT_STORE = 100 * 2**20  # bytes, for a local Ray: rows are small


@contextmanager
def ray_started(workers: int) -> Iterator[None]:
    """Run Ray until the block ends; leaving the block early kills the workers. Raises InputError without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a corpus leaves the machine
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are of no use to the user
    try:
        import ray
        from ray.data import DataContext
    except ImportError as error:
        problem = f"Ray cannot be imported ({error})"
        raise InputError("curate.py", problem, "run `bash launch/install.sh curation`") from None
    local = {"num_cpus": workers + 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    options: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"address": "local"} | local
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        remedy = "start the cluster, or unset RAY_ADDRESS to work on this machine"
        raise InputError("RAY_ADDRESS", f"no cluster responds ({error})", remedy) from None
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def distribute(
    maker: type[Maker], arguments: dict[str, Any], items: list[dict[str, Any]], workers: int, gpus: float = 0
) -> Iterator[dict[str, Any]]:
    """The answers of `maker(**arguments)` to `items`, as they arrive. `gpus`: the share of a GPU each worker takes."""
    import ray.data

    workers = min(workers, len(items))
    rows = ray.data.from_items(items, override_num_blocks=len(items))  # so that a crash repeats a single item
    compute = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
    options: dict[str, Any] = {"compute": compute, "num_cpus": 1, "num_gpus": gpus or None}
    answers = rows.map(maker, fn_constructor_kwargs=arguments, **options)  # type: ignore[arg-type]  # an actor class
    yield from answers.iter_rows()
