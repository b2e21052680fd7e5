"""The command `unisign-fast` of an installed package runs the script of this folder that its first argument names.

unisign-fast translate VIDEO      is      python launch/translate.py VIDEO
deepspeed --module unisign_fast.launch.pretrain      is      deepspeed launch/pretrain.py
"""

import runpy
import sys

from unisign_fast import __version__
from unisign_fast.utils.console import clean_exit

COMMANDS = {
    "translate": "translate videos, keypoints, stores or a camera",
    "evaluate": "score a model or a file of predictions, compare two systems",
    "pretrain": "train stages 1 (pose-only) and 2 (RGB-pose)",
    "finetune": "train stage 3: translation, glosses or words",
    "prepare": "make keypoint stores: demo, poses, convert, crops, verify, merge, stats",
    "curate": "build a corpus from broadcasts: run, status, retry, finish, withdraw",
    "convert": "import and export checkpoints in the authors' format",
    "report": "write the HTML report of a run",
    "summary": "print the table of finished runs",
    "ablate": "repeat the paper's ablation tables at demo size",
}
HELP = ("-h", "--help")


def main() -> None:
    """Runs the script that the first argument names; if there is none, exits with status 2 and one line on stderr."""
    name, *arguments = sys.argv[1:] or HELP[-1:]
    if name in HELP or name == "--version":
        with clean_exit():
            print(_help() if name in HELP else __version__)
    elif name in COMMANDS:
        sys.argv = [f"unisign-fast {name}", *arguments]
        runpy.run_module(f"{__package__}.{name}", run_name="__main__")
    else:
        print(f"error: unisign-fast: {name!r} is not a command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    listed = "\n".join(f"  {command:10} {what}" for command, what in COMMANDS.items())
    return f"usage: unisign-fast COMMAND ...\n\n{listed}\n\nunisign-fast COMMAND --help shows a command's options."
