"""A short part of the campaign of damaged inputs."""

from benchmarks.faults_inputs import REFUSED, SUBJECTS, run


def test_damaged_inputs_are_read_as_they_were_or_refused():
    rows = run(len(SUBJECTS), seed=3)
    assert len(rows) == len(SUBJECTS) and not [row for row in rows if row.wrong]
    assert sum(row.outcomes[REFUSED] for row in rows) > len(SUBJECTS) / 2
