"""One trial of the training faults."""

import pytest

from benchmarks.faults_training import run


@pytest.mark.slow
def test_a_run_with_a_damaged_file_goes_on_to_the_same_weights():
    (row,) = run(0, 1, kinds=("a flipped bit",))
    assert row.tried == 1 and row.wrong == 0, row
