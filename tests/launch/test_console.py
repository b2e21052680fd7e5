"""What all commands share: quick help, one-line errors, exit statuses, and one command that runs them all."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

from unisign_fast import __version__
from unisign_fast.launch.main import COMMANDS
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

# Importing any of these takes longer than --help may.
SLOW = {"torch", "transformers", "deepspeed", "numba", "zarr", "matplotlib", "av", "triton", "huggingface_hub"}
WIDE, HIGH = 100, 40  # columns and lines of a screen
HELP = """
import contextlib, io, sys
from unisign_fast.launch.main import main
sys.argv = ["unisign-fast", *{arguments}, "--help"]
output = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(output):
    main()
print(*sorted({slow} & set(sys.modules)))
print(output.getvalue())
"""
SUBCOMMANDS = {"prepare": ["convert", "stats", "poses"], "convert": ["import"]}


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


def test_help_keeps_examples_as_lines_and_shows_no_none_among_choices(capsys):
    def command(name: str | None = None) -> None:
        """Do one thing.

        It takes
        two lines.

        Args:
            name: Of the thing.
        """

    with pytest.raises(SystemExit):
        run_command(command, ["--help"], examples="A script.\n\npython a.py --name b\npython a.py --name c\n\nEnd.")
    output = capsys.readouterr().out
    assert "Do one thing.\n\nIt takes two lines.\n  python a.py --name b\n  python a.py --name c\n" in output, output
    assert "--name STR" in output and "End." not in output


def test_an_interrupt_ends_with_one_line_and_status_130(capsys):
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_command(command, [])
    assert caught.value.code == 130 and capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    "arguments", [[name, *rest] for name in COMMANDS for rest in [[], *([one] for one in SUBCOMMANDS.get(name, []))]]
)
def test_help_of_every_command_is_one_screen_and_imports_nothing_slow(arguments):
    line = [sys.executable, "-c", HELP.format(arguments=arguments, slow=SLOW)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": str(WIDE)})
    slow, _, output = done.stdout.partition("\n")
    assert slow == "" and output.startswith(f"usage: unisign-fast {arguments[0]}"), done.stdout
    shown = [line for text in output.strip().splitlines() for line in textwrap.wrap(text, WIDE) or [""]]
    assert len(shown) <= HIGH and not re.search(r"\(default: (None)?\)", output), output


def test_the_command_lists_the_others_and_refuses_what_is_none():
    start = [sys.executable, "-c", "from unisign_fast.launch.main import main; main()"]
    listed, version, wrong = (
        subprocess.run([*start, *arguments], capture_output=True, text=True)
        for arguments in ([], ["--version"], ["translat"])
    )
    assert listed.returncode == 0 and all(f"\n  {name} " in listed.stdout for name in COMMANDS)
    assert version.stdout == f"{__version__}\n"
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unisign-fast: 'translat' is not a command; choose ")


def ended_unread(script: str, *arguments: str) -> tuple[int, str]:
    """Status and stderr of a Python script whose stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [[], ["prepare", "--help"], ["pretrain", "--help"], ["translate", "--help"]])
def test_a_closed_pipe_ends_a_command_without_a_word(arguments):
    """As in `COMMAND | head`."""
    script = "from unisign_fast.launch.main import main; main()"
    assert ended_unread(script, *arguments) == (128 + signal.SIGPIPE, "")


def test_a_closed_pipe_hides_no_other_error():
    script = "from unisign_fast.utils.console import run_command\nrun_command({}, [])".format
    printing = "lambda: print('x' * 100_000)"
    assert ended_unread(script(printing)) == (128 + signal.SIGPIPE, "")
    failing = "lambda: (_ for _ in ()).throw(BrokenPipeError('a worker is gone'))"
    done = subprocess.run([sys.executable, "-c", script(failing)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("BrokenPipeError: a worker is gone\n")


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)", "print('x', flush=True)"])
def test_a_full_disk_under_stdout_is_one_line(body):
    """As in `COMMAND > /dev/full`."""
    script = f"from unisign_fast.utils.console import run_command\nrun_command(lambda: {body}, [])"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: cannot be written (No space left")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_no_status_and_lend_no_file_their_numbers(tmp_path, closed):
    """As a daemon or cron job may start a command."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom unisign_fast.utils.console import run_command\n"
        "def command(fail: bool = False):\n    print('x')\n    assert os.open(os.devnull, os.O_RDONLY) > 2\n"
        "    if fail:\n        raise KeyboardInterrupt\nrun_command(command)\n"
    )
    for arguments, status in (("", 0), ("--fail", 130)):
        done = subprocess.run(["bash", "-c", f"{sys.executable} {script} {arguments} {closed}"], capture_output=True)
        assert done.returncode == status and b"Traceback" not in done.stderr, done.stderr


def test_what_a_terminal_cannot_show_is_escaped():
    script = "from unisign_fast.utils.console import run_command\nrun_command(lambda: print('\u4f60', '\u00e9'), [])"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment)
    assert run.stdout == b"\\u4f60 \xe9\n", run.stderr
