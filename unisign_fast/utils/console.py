"""How every command of the project starts, and how it ends when the user's input is wrong."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tyro
from tyro.extras import subcommand_cli_from_dict

from unisign_fast.pipelines.errors import InputError


def run_command(
    command: Callable[..., None] | dict[str, Callable[..., None]], arguments: Sequence[str] | None = None
) -> None:
    """Runs a function, or the one that the first argument names, with options made from its signature and docstring.

    An InputError ends the process with one line on stderr and status 2, wrong arguments with tyro's words and status 2.
    `arguments` are the command line's by default; the --local_rank that DeepSpeed's launcher adds is dropped, since
    ranks come from the environment.
    """
    arguments = without_local_rank(sys.argv[1:] if arguments is None else arguments)
    with one_line_errors():
        if isinstance(command, dict):
            subcommand_cli_from_dict(command, args=arguments)
        else:
            tyro.cli(command, args=arguments)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """An InputError inside ends the process with one line on stderr and status 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """The arguments without the --local_rank of DeepSpeed's launcher."""
    kept, waiting = [], iter(arguments)
    for argument in waiting:
        if re.fullmatch(r"--local[_-]rank", argument):
            next(waiting, None)
        elif not re.match(r"--local[_-]rank=", argument):
            kept.append(argument)
    return kept
