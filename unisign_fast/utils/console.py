"""Runs the project's commands: parses their options, and ends them without a traceback on invalid input."""

import inspect
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, TextIO, get_args, get_origin, get_type_hints

import tyro
from tyro.extras import subcommand_cli_from_dict

from unisign_fast.pipelines.errors import InputError


def run_command(
    command: Callable[..., None] | dict[str, Callable[..., None]],
    arguments: Sequence[str] | None = None,
    examples: str | None = None,
) -> None:
    """Run a function with options from its signature and docstring; of several, the one that the first argument names.

    `arguments` are the command line's by default; the --local_rank that DeepSpeed's launcher adds is dropped, since
    ranks come from the environment. `examples` is the script's docstring: --help shows its command lines. The process
    ends as in `clean_exit`; invalid arguments end it with tyro's message and status 2.
    """
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = without_local_rank(sys.argv[1:] if arguments is None else arguments)
    for one in command.values() if isinstance(command, dict) else [command]:
        hide_absent_defaults(one)
    config = (tyro.conf.DisallowNone,)
    with clean_exit():
        if isinstance(command, dict):
            if not command.keys() & set(arguments):  # the list of commands shows the first paragraph of each
                for one in command.values():
                    one.__doc__ = inspect.cleandoc(one.__doc__ or "").split("\n\n")[0]
            about = (examples or "").split("\n")[0] + example_lines(examples or "")
            subcommand_cli_from_dict(command, description=about, args=arguments, config=config)
        else:
            tyro.cli(command, description=_described(command, examples or ""), args=arguments, config=config)


def _described(command: Callable[..., None], examples: str) -> str:
    """The function's docstring up to its arguments, and the lines of `examples` that are commands."""
    about = inspect.cleandoc(command.__doc__ or "").partition("\nArgs:")[0].strip()
    paragraphs = (" ".join(paragraph.split()) for paragraph in about.split("\n\n"))
    return "\n\n".join(paragraphs) + example_lines(examples)


def example_lines(text: str) -> str:
    """The command lines in a text, indented, so that tyro does not join them."""
    return "".join(f"\n  {line}" for line in text.splitlines() if re.match("python |deepspeed ", line))


def hide_absent_defaults(options: Callable[..., None] | type, values: object = None) -> None:
    """Hide "(default: None)" in the --help of a function or dataclass; `values`: its instance, with the defaults."""
    hints = get_type_hints(options, include_extras=True)
    for name, parameter in inspect.signature(options).parameters.items():
        hint, default = hints[name], getattr(values, name, parameter.default)
        group = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(group, type) and is_dataclass(group):
            group.__doc__ = ""  # written for developers, not for --help
            hide_absent_defaults(group, default)
        elif default is None or default in ((), inspect.Parameter.empty):
            metavar = "PATH" if group == Path | None else None  # not {None}|PATH
            options.__annotations__[name] = Annotated[hint, tyro.conf.arg(help_behavior_hint="", metavar=metavar)]


@contextmanager
def clean_exit() -> Iterator[None]:
    """Ends the process without a traceback on the expected exceptions.

    InputError prints one line to stderr and ends with status 2, Ctrl-C one line with status 130. If nothing reads
    stdout any more, as in `COMMAND | head`, the process ends silently with status 141; if stdout cannot be written for
    another reason (disk full), with one line and status 2.
    """
    _open_closed_streams()
    try:
        try:
            yield
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        finally:
            sys.stdout.flush()  # now, since the interpreter's flush at exit would print a traceback
    except BrokenPipeError:  # of stdout, or of another pipe or socket
        if not _is_unread(sys.stdout.fileno()):
            raise
        _discard_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if not _is_unwritable(sys.stdout):
            raise
        _discard_stdout()
        problem = f"cannot be written ({error.strerror or error})"
        print(f"error: {InputError('standard output', problem, 'free disk space, or redirect it')}", file=sys.stderr)
        sys.exit(2)


def _open_closed_streams() -> None:
    """Opens /dev/null for each standard stream that the caller closed (`>&-`).

    Each takes the lowest free descriptor, which is the stream's own, so that no data file does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _discard_stdout() -> None:
    """Sends what is still buffered to /dev/null, where the flush at exit succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unwritable(stream: TextIO) -> bool:
    """Whether writing to the stream fails."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        return True
    return False


def _is_unread(pipe: int) -> bool:
    """Whether the reading end of a pipe is closed."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """The arguments without the --local_rank of DeepSpeed's launcher."""
    kept, remaining = [], iter(arguments)
    for argument in remaining:
        if re.fullmatch(r"--local[_-]rank", argument):
            next(remaining, None)
        elif not re.match(r"--local[_-]rank=", argument):
            kept.append(argument)
    return kept
