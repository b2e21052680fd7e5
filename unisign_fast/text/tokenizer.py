"""Text to tokens and back, with mT5's SentencePiece model: one file, `spiece.model`, stored with every model.

The library is used directly: the wrappers in transformers lose mT5's Unicode normalisation or its vocabulary when they
are built from that file alone.
"""

import hashlib
import io
import shutil
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import SentencePieceProcessor

from unisign_fast.pipelines.atomic_io import replaced
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import not_a_file_of_its_kind, read_bytes
from unisign_fast.pipelines.targets import language_name

PAD, END, UNKNOWN = 0, 1, 2  # mT5's special ids; its decoder starts with PAD
MAX_BYTES, MAX_PIECES = 64 * 2**20, 2**24  # mT5's file has 4 MB and 250,100 pieces
MAX_TARGET_TOKENS = 50  # with the end token, as published


def until_end(tokens: list[int]) -> list[int]:
    """The tokens up to and including the first end token, without padding."""
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def prompt(language: str) -> str:
    """The published prompt. Raises InputError if the language (CODE or CODE=NAME) is unknown."""
    name = language_name(language)
    if name is None:
        raise InputError("language", f"{language!r} is not known", "give CODE=NAME with its English name")
    return f"Translate sign language video to {name}: "


class Tokenizer:
    """Tokens of prompts and targets."""

    def __init__(self, path: Path):
        """`path`: a spiece.model, or a folder that holds one. Raises InputError if it is missing or invalid."""
        self.path = path / "spiece.model" if path.is_dir() else path
        if not self.path.is_file():
            raise InputError(self.path, "does not exist", "copy mT5's spiece.model there, or give its path")
        remedy = "copy mT5's spiece.model again"
        model = read_bytes(self.path, MAX_BYTES, remedy)
        if problem := not_a_file_of_its_kind(model):
            raise InputError(self.path, problem, remedy)
        try:
            if not model:
                raise ValueError("it is empty")  # the library would accept it and print warnings
            self._pieces = SentencePieceProcessor(model_proto=model)
            if not UNKNOWN < len(self) <= MAX_PIECES:
                raise ValueError(f"it has {len(self)} pieces")
        except (OSError, RuntimeError, ValueError, TypeError):
            raise InputError(self.path, "is not a SentencePiece model", remedy) from None
        self.fingerprint = hashlib.blake2b(model, digest_size=16).hexdigest()

    def __len__(self) -> int:
        """The number of pieces; mT5's embedding may have a few more rows."""
        return self._pieces.get_piece_size()

    def prompt_ids(self, language: str) -> list[int]:
        """Tokens of the prompt that names the target language (CODE or CODE=NAME), with the end token."""
        return self._pieces.encode(prompt(language)) + [END]

    def target_ids(self, text: str) -> list[int]:
        """Tokens of a target, cut to MAX_TARGET_TOKENS with the end token."""
        return self.ids(text)[: MAX_TARGET_TOKENS - 1] + [END]

    def ids(self, text: str) -> list[int]:
        """All tokens of a text, without an end token."""
        return self._pieces.encode(text)

    def pieces(self) -> list[str]:
        """The piece of every token; all are distinct."""
        return [self._pieces.id_to_piece(token) for token in range(len(self))]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of generated tokens, up to the first end token; padding and ids beyond the vocabulary are left out."""
        kept = []
        for token in ids:
            if token == END:
                break
            if UNKNOWN < token < len(self):
                kept.append(int(token))
        return self._pieces.decode(kept)

    def save(self, folder: Path) -> None:
        """Copy the model into `folder`. Raises InputError if that cannot be written to."""
        if self.path.resolve() != (folder / "spiece.model").resolve():
            with replaced(folder / "spiece.model") as part:
                shutil.copyfile(self.path, part)


def train_tokenizer(texts: Iterable[str], folder: Path) -> Tokenizer:
    """Train a tokenizer for a small corpus, with mT5's special ids and normalisation. It is deterministic."""
    prompts = [prompt(language) for language in ("zh", "en")]
    model = io.BytesIO()  # not a file: the model would contain its path
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*prompts, *texts]),
        model_writer=model,
        model_type="unigram",
        vocab_size=1000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=PAD,
        eos_id=END,
        unk_id=UNKNOWN,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return write_tokenizer(model.getvalue(), folder)


def write_tokenizer(model: bytes, folder: Path) -> Tokenizer:
    """Write a SentencePiece model into `folder` atomically, and open it as a tokenizer."""
    with replaced(folder / "spiece.model") as part:
        part.write_bytes(model)
    return Tokenizer(folder)
