"""The kinds of training faults, and those of processes: signals, kills at exact moments, ranks, bad steps, locks.

A fault acts on a `Trial`, whose run was killed after its third checkpoint, and checks the starts that it disturbs. The
campaign then repeats the command until it ends.
"""

import os
import signal
import time
from datetime import timedelta
from functools import partial

from benchmarks.faults_training_damage import (
    cut,
    deleted,
    disk_full,
    flipped,
    other_data,
    other_ranks,
    other_stage,
    read_only,
    store_moved,
    strange_checkpoints,
    tokenizer_damaged,
)
from benchmarks.faults_training_starts import FINISHED, STOPPED_BY_INPUT, Fault, Start, Trial

GROWTH = 2500  # bytes of log.jsonl that a start from the third checkpoint writes

# Signals --------------------------------------------------------------------------------------------------------------


def _let_it_work(trial: Trial, start: Start) -> None:
    """Wait for a random moment of a start, measured by the size of its log."""
    log = trial.run / "log.jsonl"
    size = log.stat().st_size if log.exists() else 0
    wanted = size + trial.rng.randrange(1, GROWTH)
    while start.is_running and not (log.exists() and log.stat().st_size >= wanted):
        time.sleep(0.002)
    time.sleep(trial.rng.choice([0.0, 0.0, trial.rng.uniform(0, 0.5)]))


def _signalled(trial: Trial, number: int, times: int = 1) -> None:
    trial.sometimes_from_the_start()
    start = trial.start()
    _let_it_work(trial, start)
    for _ in range(times):
        start.send(number)
        time.sleep(0.02 * (times - 1))
    trial.expect(start, FINISHED, -number, 128 + number)


def _signalled_in_evaluation(trial: Trial) -> None:
    number = trial.rng.choice([signal.SIGTERM, signal.SIGINT])
    trial.expect(trial.start(partial(_send_in_evaluation, number=number)), FINISHED, 128 + number)


def _send_in_evaluation(rank: int, number: int) -> None:
    from unisign_fast.training import run

    evaluate = run.evaluate_split

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        return evaluate(*arguments, **options)

    run.evaluate_split = interrupted


# Kills at exact moments, and ranks ------------------------------------------------------------------------------------


def _killed_at_a_file_operation(trial: Trial) -> None:
    trial.sometimes_from_the_start()
    start = trial.start(partial(_kill_before_file_operation, count=trial.rng.randrange(1, 100)))
    trial.expect(start, FINISHED, -signal.SIGKILL)


def _kill_before_file_operation(rank: int, count: int) -> None:
    left = [count]

    def counted(operation):
        def act(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return act

    for name in ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def _killed_before_latest(trial: Trial) -> None:
    trial.expect(trial.start(_kill_before_latest), -signal.SIGKILL)


def _kill_before_latest(rank: int) -> None:
    """The manifest has been written, but the file `latest` names the previous checkpoint."""
    from unisign_fast.training import checkpoint

    checkpoint.replace_text = lambda path, text: os.kill(os.getpid(), signal.SIGKILL)


def _one_rank_killed(trial: Trial) -> None:
    trial.sometimes_from_the_start()
    start = trial.start()
    _let_it_work(trial, start)
    start.send(signal.SIGKILL, rank=trial.rng.randrange(trial.ranks))
    status = start.wait()
    assert status in (FINISHED, -signal.SIGKILL, 1), f"status {status}: {start.said[-600:]}"  # 1: its peer is gone


def _one_rank_paused(trial: Trial) -> None:
    start, rank = trial.start(), trial.rng.randrange(trial.ranks)
    _let_it_work(trial, start)
    start.send(signal.SIGSTOP, rank)
    time.sleep(trial.rng.uniform(0.1, 1))
    start.send(signal.SIGCONT, rank)
    trial.expect(start, FINISHED)


def _one_rank_missing(trial: Trial) -> None:
    trial.expect(trial.start(_join_for_a_short_time, present=1), STOPPED_BY_INPUT)


def _join_for_a_short_time(rank: int) -> None:
    from unisign_fast.utils import distributed

    distributed.JOIN_TIMEOUT = timedelta(seconds=2)


# Bad steps ------------------------------------------------------------------------------------------------------------


def _nan_loss(trial: Trial) -> None:
    trial.sometimes_from_the_start()
    start = trial.start(partial(_spoil_a_loss, step=trial.rng.randrange(2)))
    trial.expect(start, STOPPED_BY_INPUT)
    assert "not finite" in start.said, start.said[-600:]


def _nan_loss_skipped(trial: Trial) -> None:
    start = trial.start(partial(_spoil_a_loss, step=trial.rng.randrange(2)), more=("--on-bad-step", "skip"))
    trial.expect(start, FINISHED)
    assert "skipped a step" in start.said, start.said[-600:]


def _spoil_a_loss(rank: int, step: int) -> None:
    from unisign_fast.model.unisign import UniSign

    forward, calls = UniSign.forward, [0]

    def spoiled(model, batch):
        result = forward(model, batch)
        if model.training:
            calls[0] += 1
        return result * float("nan") if model.training and calls[0] == step + 1 else result

    UniSign.forward = spoiled


# Locks ----------------------------------------------------------------------------------------------------------------


def _lock_of_a_dead_process(trial: Trial) -> None:
    """The killed run left its lock behind; sometimes its content is garbage."""
    lock = trial.run / "lock"
    assert lock.exists()
    content = [lock.read_bytes(), b"", trial.rng.randbytes(40), b"[" * 9999, b'{"pid": 1, "host": 7}']
    lock.write_bytes(trial.rng.choice(content))


def _two_starts(trial: Trial) -> None:
    """Two starts at once: one of them trains."""
    trial.sometimes_from_the_start()
    starts = [trial.start(), trial.start()]
    statuses = [trial.expect(start, FINISHED, STOPPED_BY_INPUT) for start in starts]
    assert FINISHED in statuses, statuses


FAULTS: dict[str, Fault] = {
    "SIGKILL": partial(_signalled, number=signal.SIGKILL),
    "SIGKILL before a fsync, rename, unlink or mkdir": _killed_at_a_file_operation,
    "SIGKILL between manifest and latest": _killed_before_latest,
    "SIGKILL of one rank of two": _one_rank_killed,
    "one rank of two paused": _one_rank_paused,
    "one rank of two missing": _one_rank_missing,
    "SIGTERM": partial(_signalled, number=signal.SIGTERM),
    "SIGTERM twice": partial(_signalled, number=signal.SIGTERM, times=2),
    "Ctrl-C": partial(_signalled, number=signal.SIGINT),
    "a signal during evaluation": _signalled_in_evaluation,
    "disk full": disk_full,
    "a folder read-only": read_only,
    "the store moved": store_moved,
    "other data at its path": other_data,
    "another number of ranks": other_ranks,
    "another ZeRO stage": other_stage,
    "a loss of NaN, stop": _nan_loss,
    "a loss of NaN, skip": _nan_loss_skipped,
    "a file cut short": cut,
    "a flipped bit": flipped,
    "a file deleted": deleted,
    "the tokenizer damaged": tokenizer_damaged,
    "strange checkpoints": strange_checkpoints,
    "the lock of a dead process": _lock_of_a_dead_process,
    "two starts at once": _two_starts,
}
TWO_RANKS = ("SIGKILL of one rank of two", "one rank of two paused", "one rank of two missing")
OTHER_LAYOUT = ("another number of ranks", "another ZeRO stage")  # the same to float tolerance
OTHER_WEIGHTS = ("a loss of NaN, skip",)  # a step was not taken
