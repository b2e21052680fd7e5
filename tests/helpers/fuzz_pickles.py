"""Generated pickles, hostile by chance, through load_pickle: python tests/helpers/fuzz_pickles.py --count 100000

Half are mutations of pickles that poses and labels come in, half are drawn from a grammar of opcodes, among them every
global that is allowed. Wrong is an exception that is no InputError, a line that is more than one, more than 256 MiB of
memory, and a value whose arrays cannot be read. A pickle that crashed the interpreter would end the run.
"""

import argparse
import faulthandler
import pickle
import pickletools
import random
import resource
import sys
import tempfile
import tracemalloc
from collections import Counter, OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np

from unisign_fast.pipelines.converters.safe_pickle import load_pickle
from unisign_fast.pipelines.errors import InputError

LIMIT = 256 * 2**20
GLOBALS = (
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy._core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n",
    *(f"cbuiltins\n{name}\n".encode() for name in ("list", "dict", "tuple", "set", "frozenset")),
    b"cos\nsystem\n",
)
OPCODES = bytes(code[0] for code in vars(pickle).values() if isinstance(code, bytes) and len(code) == 1)
SPECS = ("f4", "f8", "i8", "b1", "U1", "S5", "O8", "c16", "u1")


def _fragments() -> list[bytes]:
    """Pieces of pickles that leave one value on the stack."""
    array = np.arange(6, dtype=np.float32)
    values = [
        0,
        -1,
        2**70,
        1.5,
        None,
        True,
        "",
        "latin1",
        "C",
        "<",
        b"",
        b"bytes" * 5,
        (),
        [],
        {},
        (0,),
        (2, 3),
        {1, 2},
    ]
    values += [array, array.reshape(2, 3).T, np.float64(1), np.str_("ab"), np.array([1, "a"], object), OrderedDict(a=1)]
    values += [*SPECS, "V8", (3, "<", None, None, None, -1, -1, 0), (1, (2,), None, False, b"12345678"), (2**40, 0)]
    return [pickle.dumps(value, protocol)[2:-1] for value in values for protocol in (2, 3)]


def _corpus() -> list[bytes]:
    """Pickles like those that hold poses and labels."""
    rng = np.random.default_rng(0)
    frames = [rng.random((1, 5, 2), np.float32) for _ in range(3)]
    poses = {"keypoints": frames, "scores": [np.ones((1, 5))] * 3, "w_h": [64, 48]}
    nested = {"keypoints": [frame.tolist() for frame in frames], "start": np.int64(0)}
    labels = OrderedDict({f"c{i}": {"name": f"c{i}", "text": "你好", "gloss": ["a", "b"]} for i in range(3)})
    odd = [
        frozenset("ab"),
        {1, 2.5},
        np.array(["a", "bc"]),
        np.array([None, [1]], object),
        np.asfortranarray(frames[0]),
    ]
    return [pickle.dumps(value, protocol) for value in (poses, nested, labels, odd) for protocol in range(6)]


FRAGMENTS, CORPUS = _fragments(), _corpus()


def _opcodes(content: bytes) -> list[bytes]:
    """A pickle, split into its opcodes."""
    places = [place for _, _, place in pickletools.genops(content)]
    return [content[start:end] for start, end in pairwise([*places, len(content)])]


PARTS = [_opcodes(content) for content in CORPUS]


def mutated(rng: random.Random) -> bytes:
    """A pickle of the corpus with one to three opcodes changed, and at times a byte."""
    parts = list(rng.choice(PARTS))
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(parts))
        other = rng.choice(PARTS)
        match rng.randrange(7):
            case 0:
                parts[place] = rng.choice(FRAGMENTS)
            case 1:
                parts.insert(place, bytes([rng.choice(OPCODES)]))
            case 2:
                parts.insert(place, rng.choice(FRAGMENTS))
            case 3:
                start = rng.randrange(len(other))
                parts[place:place] = other[start : start + rng.randrange(12)]
            case 4:
                del parts[place : place + rng.randrange(3)]
            case 5:
                parts[place] = rng.choice([part for part in other if part[:1] == parts[place][:1]] or [b""])
            case 6:
                parts[place:place] = parts[max(0, place - 10) : place] * rng.choice([1, 2, 300])
        parts = parts or [b"N"]
    content = bytearray(b"".join(parts))
    if rng.random() < 0.3:
        place = rng.randrange(len(content))
        content[place : place + 1] = rng.choice([rng.randbytes(1), b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f"])
    return bytes(content)


def drawn(rng: random.Random) -> bytes:
    """A pickle of random opcodes, most of which find the operands they need on the stack."""
    parts = [b"\x80\x04("]  # the list of whatever is left on the stack
    parts += [rng.choice((rng.choice(FRAGMENTS), _array(rng))) + b"q" + bytes([number]) for number in range(8)]
    for _ in range(rng.choice([2, 5, 20, 60])):
        number = bytes([rng.randrange(8)])
        part = rng.choice(
            (
                rng.choice(FRAGMENTS),
                rng.choice(GLOBALS) + rng.choice(FRAGMENTS) + b"\x85R",
                rng.choice(GLOBALS) + b"(" + b"".join(rng.choices(FRAGMENTS, k=rng.randint(0, 5))) + b"tR",
                _array(rng),
                b"q" + number,
                b"h" + number,
                b"r" + rng.randbytes(4),
                rng.choice(
                    [b"(", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"b", b"R", b"2", b"0", b"\x94", b"}", b"]"]
                ),
                rng.choice([b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x81", b"\x93", b"(s", b"(e"]),
                b"\x8e" + (rng.choice([4, 2**32, 2**63])).to_bytes(8, "little") + b"data",
                rng.choice(
                    [b"Z", b"S'a'\n", b"I01\n", b"L9L\n", b"Fnan\n", b"V\\ud800\n", bytes([rng.choice(OPCODES)])]
                ),
            )
        )
        parts.append(part * rng.choice([1] * 30 + [2, 50, 3000]))
    return b"".join(parts) + b"l."


def _array(rng: random.Random) -> bytes:
    """An array as numpy pickles it, with a shape and data that need not match."""
    state = (3, rng.choice("<>|"), None, None, None, rng.choice([-1, 1000]), -1, 0)
    shape = tuple(rng.choice([0, 1, 2, 3, 2**40, 10**9]) for _ in range(rng.randint(0, 4)))
    spec = rng.choice(SPECS)
    size = rng.choice([0, 4, 8, 24, 96, 1000])
    if rng.random() < 0.7:  # numbers that do fit
        size, shape = np.dtype(spec).itemsize * 6, rng.choice([(6,), (2, 3), (3, 1, 2)])
    return (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01"
        + pickle.dumps(shape, 3)[2:-1]
        + (b"cnumpy\ndtype\n" + pickle.dumps(spec, 3)[2:-1] + b"\x85R" + pickle.dumps(state, 3)[2:-1] + b"b")
        + b"\x89"
        + pickle.dumps([None] * (size // 8) if spec == "O8" else rng.randbytes(size), 3)[2:-1]
        + b"tb"
    )


def read(value: object) -> int:
    """Reads every array of a value; its number of leaves."""
    if isinstance(value, np.ndarray):
        return len(value.tobytes()) if value.dtype != object else sum(map(read, value.ravel().tolist()))
    if isinstance(value, dict):
        return sum(map(read, value.values()))
    return sum(map(read, value)) if isinstance(value, (list, tuple, set, frozenset)) else len(repr(value)) > 0


def outcome(content: bytes, path: Path) -> str:
    """The outcome of a pickle: "read", "refused", or a description of the error."""
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        read(load_pickle(path))
        result = "read"
    except InputError as error:
        result = "refused" if str(error).isprintable() else "WRONG: more than a line"
    except Exception as error:
        result = f"WRONG: {type(error).__name__}"
    peak = tracemalloc.get_traced_memory()[1] - before
    return result if peak < LIMIT else f"WRONG: {peak} bytes"


def fuzz(count: int, seed: int = 0, keep: Path | None = None) -> Counter:
    """Counts the outcomes of `count` pickles; wrong ones are kept in folder `keep`."""
    outcomes = Counter()
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            content = (mutated if number % 2 else drawn)(rng)
            result = outcome(content, Path(folder) / "a.pkl")
            outcomes[result] += 1
            if keep and result.startswith("WRONG"):
                (keep / f"{number}.pkl").write_bytes(content)
    tracemalloc.stop()
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for pickles that went wrong")
    given = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    result = fuzz(given.count, given.seed, given.keep)
    print(dict(result))
    sys.exit(any(name.startswith("WRONG") for name in result))
