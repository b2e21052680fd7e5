"""Trims mT5's vocabulary to the part that a corpus needs, and restores it (`--trim-vocabulary`).

mT5-Base's embedding and output head each have a row for every one of 250,112 tokens: 384 of its 582 million parameters,
of which a corpus in one language uses a few percent. A trimmed model is an ordinary model with fewer pieces in its
spiece.model. The pieces' names say which rows of the full model it kept.
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
MULTIPLE = 8  # the number of rows is a multiple of this: GPUs multiply such matrices faster


def trim_tokenizer(full: Tokenizer, texts: Iterable[str], folder: Path) -> Tokenizer:
    """Write a tokenizer into `folder` that splits these texts and all prompts into the same pieces as before.

    It keeps those pieces, every single character in them, the pieces that are not text (end token, bytes), and a few
    others to fill MULTIPLE. Removing pieces adds no segmentation of a text, and its best one is kept.
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
    """The row in the full vocabulary of each row of the trimmed one, int64. Raises InputError if a piece is missing
    there."""
    number = {piece: token for token, piece in enumerate(full.pieces())}
    try:
        return torch.tensor([number[piece] for piece in trimmed.pieces()])
    except KeyError as error:
        problem = f"has the piece {error.args[0]!r}, which {full.path} lacks"
        raise InputError(trimmed.path, problem, "name the model that the trimmed one was made from") from None


def trimmed_weights(weights: dict[str, Tensor], rows: Tensor | None) -> dict[str, Tensor]:
    """A model's weights with only these rows of its vocabulary; None: all."""
    if rows is None:
        return weights
    return {name: weight[rows] if name.endswith(ROWS) else weight for name, weight in weights.items()}


def untrimmed_weights(weights: dict[str, Tensor], rows: Tensor, embedding: Tensor, head: Tensor) -> dict[str, Tensor]:
    """A trimmed model's weights with the full vocabulary; missing rows come from `embedding` and `head` [W, D]."""
    full = dict(weights)
    for name, weight in weights.items():
        if name.endswith(ROWS):
            matrix = head if name.endswith(HEAD) else embedding
            full[name] = matrix.to(weight.dtype, copy=True).index_copy_(0, rows, weight)
    return full
