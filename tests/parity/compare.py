"""A comparison of both implementations on one case that the published code dumped.

    python tests/parity/compare.py CASE.pt

Compares every stage with the published numbers, prints the relative errors, and exits with status 1 when one is beyond
the tolerance.
"""

import sys
from pathlib import Path

import tyro
from published_case import compare, read_case

from unisign_fast.published.convert import model_from_published
from unisign_fast.utils.console import run_command


def compare_with_case(case: tyro.conf.Positional[Path]) -> None:
    """Compares this implementation with one case that the published one dumped; exit status 1 if they differ.

    Args:
        case: the dumped file: weights, inputs and the numbers of every stage.
    """
    dumped = read_case(case)
    model = model_from_published(dumped["state_dict"], case, dumped["mt5_config"]["dropout_rate"])
    differences = compare(dumped, model)
    for difference in differences:
        print(difference)
    failed = sum(not difference.within for difference in differences)
    print(f"{len(differences)} stages compared, {failed} beyond the tolerance")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_command(compare_with_case)
