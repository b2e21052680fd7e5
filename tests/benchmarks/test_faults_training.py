"""A few trials of the training faults."""

from benchmarks.faults_training import run


def test_a_damaged_or_killed_run_goes_on_to_the_same_weights():
    kinds = ("SIGKILL before a fsync, rename, unlink or mkdir", "a flipped bit")
    rows = run(0, 1, kinds)
    assert [row.tried for row in rows] == [1, 1] and not any(row.wrong for row in rows), rows
    assert all(row.outcomes["identical"] for row in rows), rows
