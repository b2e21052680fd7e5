"""How every command of the project starts, and how it ends when the user's input is wrong."""

import inspect
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tyro
from tyro.extras import subcommand_cli_from_dict

from unisign_fast.pipelines.errors import InputError


def run_command(
    command: Callable[..., None] | dict[str, Callable[..., None]],
    arguments: Sequence[str] | None = None,
    examples: str | None = None,
) -> None:
    """Run a function, or the one that the first argument names, with options made from its signature and docstring.

    `arguments` are the command line's by default; the --local_rank that DeepSpeed's launcher adds is dropped, since
    ranks come from the environment. `examples` is the script's docstring: --help shows its command lines. An InputError
    ends the process with one line on stderr and status 2, wrong arguments with tyro's message and status 2, Ctrl-C with
    one line and status 130.
    """
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = without_local_rank(sys.argv[1:] if arguments is None else arguments)
    config = (tyro.conf.DisallowNone,)
    with one_line_errors():
        if isinstance(command, dict):
            subcommand_cli_from_dict(command, description=examples, args=arguments, config=config)
        else:
            tyro.cli(command, description=_described(command, examples or ""), args=arguments, config=config)


def _described(command: Callable[..., None], examples: str) -> str:
    """The function's docstring up to its arguments, and the lines of `examples` that are commands."""
    about = inspect.cleandoc(command.__doc__ or "").partition("\nArgs:")[0].strip()
    paragraphs = (" ".join(paragraph.split()) for paragraph in about.split("\n\n"))
    lines = (f"\n  {line}" for line in examples.splitlines() if re.match("python |deepspeed ", line))
    return "\n\n".join(paragraphs) + "".join(lines)  # indented lines are not joined


@contextmanager
def one_line_errors() -> Iterator[None]:
    """An InputError inside ends the process with one line on stderr and status 2, Ctrl-C with status 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """The arguments without the --local_rank of DeepSpeed's launcher."""
    kept, waiting = [], iter(arguments)
    for argument in waiting:
        if re.fullmatch(r"--local[_-]rank", argument):
            next(waiting, None)
        elif not re.match(r"--local[_-]rank=", argument):
            kept.append(argument)
    return kept
