"""mT5 with the part of its vocabulary that a corpus needs, and back (`--trim-vocabulary`).

mT5-Base has a row for each of 250,112 tokens in its embedding and one in its output head: 384 of its 582 million
parameters, of which a corpus in one language uses a few percent. A trimmed model is a model like any other, whose
spiece.model has fewer pieces; which rows of the full model it has follows from the pieces' names.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import LANGUAGES
from unisign_fast.text.tokenizer import Tokenizer, write_tokenizer

ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # protobuf defines it at run time

HEAD, SHARED = "lm_head.weight", "shared.weight"  # mT5's names
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # the same tensor as SHARED; not in every file
ROWS = (HEAD, SHARED, *TIED)  # matrices with a row for each token
MULTIPLE = 8  # number of rows: GPUs multiply such matrices faster


def trim_tokenizer(full: Tokenizer, texts: Iterable[str], folder: Path) -> Tokenizer:
    """Writes a tokenizer into `folder` that finds the same pieces in these texts and all prompts, and has few others.

    It keeps those pieces, every single character in them, and the pieces that are not text (end token, bytes).
    The trimmed model allows no new segmentation of a text and keeps the best one.
    """
    model = ModelProto.FromString(full.path.read_bytes())
    used = {token for language in LANGUAGES for token in full.prompt_ids(language)}
    for text in texts:
        used.update(full.ids(text))
    characters = {character for token in used for character in model.pieces[token].piece}
    normal = ModelProto.SentencePiece.NORMAL
    kept = {n for n, piece in enumerate(model.pieces) if piece.type != normal or piece.piece in characters} | used
    others = (number for number in range(len(model.pieces)) if number not in kept)
    kept |= set(islice(others, -len(kept) % MULTIPLE))
    pieces = [model.pieces[number] for number in sorted(kept)]
    trimmed = ModelProto()
    trimmed.CopyFrom(model)
    del trimmed.pieces[:]
    trimmed.pieces.extend(pieces)
    trimmed.trainer_spec.vocab_size = len(pieces)
    return write_tokenizer(trimmed.SerializeToString(deterministic=True), folder)


def rows_of(trimmed: Tokenizer, full: Tokenizer) -> Tensor:
    """For each row of the trimmed vocabulary its row in the full one, int64. Raises InputError if a piece is missing
    there."""
    number = {piece: token for token, piece in enumerate(full.pieces())}
    try:
        return torch.tensor([number[piece] for piece in trimmed.pieces()])
    except KeyError as error:
        problem = f"has the piece {error.args[0]!r}, which {full.path} has not"
        raise InputError(trimmed.path, problem, "name the model that the trimmed one started from") from None


def trimmed_weights(weights: dict[str, Tensor], rows: Tensor | None) -> dict[str, Tensor]:
    """A model's weights with these rows of its vocabulary alone; None: all."""
    if rows is None:
        return weights
    return {name: weight[rows] if name.endswith(ROWS) else weight for name, weight in weights.items()}


def untrimmed_weights(weights: dict[str, Tensor], rows: Tensor, embedding: Tensor, head: Tensor) -> dict[str, Tensor]:
    """A trimmed model's weights with the full vocabulary: missing rows are taken from these matrices."""
    full = dict(weights)
    for name, weight in weights.items():
        if name.endswith(ROWS):
            matrix = head if name.endswith(HEAD) else embedding
            full[name] = matrix.to(weight.dtype, copy=True).index_copy_(0, rows, weight)
    return full
