"""A short part of the campaign of damaged stores."""

from benchmarks.faults_stores import run


def test_damaged_stores_are_as_they_were_or_refused():
    rows = run(150, seed=1)
    assert len(rows) == 11 and not [row for row in rows if row.wrong]
    assert sum(row.outcomes["some clips refused"] for row in rows) > 10
