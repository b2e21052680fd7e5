"""One trial of the faults of corpus making."""

import pytest

pytest.importorskip("ray", reason="bash launch/install.sh curation")


@pytest.mark.slow
def test_a_disturbed_corpus_is_the_undisturbed_one():
    from benchmarks.faults_curation import run

    rows = run(0, seed=1)
    assert sum(row.tried for row in rows) >= 10 and not [row for row in rows if row.wrong], rows
