"""A command ends with one line and status 2 where the user is wrong."""

import pytest

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def test_run_command_drops_the_local_rank_and_ends_with_status_2(capsys):
    seen = []

    def command(number: int = 1) -> None:
        if number < 0:
            raise InputError("--number", "is negative", "give 0 or more")
        seen.append(number)

    run_command(command, ["--local_rank", "3", "--number", "5"])
    run_command(command, ["--local-rank=3", "--number=6"])
    run_command({"one": command, "two": command}, ["--local_rank=3", "two", "--number", "7"])
    assert seen == [5, 6, 7]
    wrong = {"--number=-1": "error: --number: is negative; give 0 or more\n", "--unknown": "--unknown"}
    for argument, expected in wrong.items():
        with pytest.raises(SystemExit) as caught:
            run_command(command, [argument])
        assert caught.value.code == 2
        assert expected in capsys.readouterr().err
