"""Converts checkpoints in the authors' format (.pth) to model folders, and model folders to such checkpoints.

python launch/convert.py import csl_stage1_weight.pth --tokenizer mt5-base/spiece.model --out models/csl_stage1
python launch/convert.py export models/csl_stage1 --out csl_stage1_weight.pth

Both directions keep every tensor's bits and type and report every key that does not fit. One thing differs: a model
trained here has separate running statistics for each hand, of which the authors' format gets the mixture. A model that
was trained with --trim-vocabulary gets the full vocabulary back with

python launch/convert.py untrim runs/base/slt-pose/best --full google/mt5-base --out models/slt-pose
"""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import tyro

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task
from unisign_fast.utils.console import run_command


def import_published(
    checkpoint: tyro.conf.Positional[Path], tokenizer: Path, out: Path, task: Task = "slt", max_frames: int = 256
) -> None:
    """Convert the authors' checkpoint to a model folder.

    Args:
        checkpoint: Their file, a dict with the key model. Code pickled in it is never run.
        tokenizer: spiece.model of mT5-Base, or its folder.
        out: Model folder to write; it must be new.
        task: Task that the model was trained for.
        max_frames: Longest clip in its training (published: 64 for WLASL, else 256).
    """
    # Imported late, as torch and transformers take seconds, which would slow --help.
    from unisign_fast.checkpoints.model_folder import UNUSED_FILE, save_model
    from unisign_fast.checkpoints.weight_files import read_weights, save_weights
    from unisign_fast.pipelines.settings import DataSettings
    from unisign_fast.published.convert import import_weights, is_unused
    from unisign_fast.text.tokenizer import Tokenizer

    if out.exists():
        raise InputError("--out", f"{out} already exists", "name a new folder")
    vocabulary = Tokenizer(tokenizer)
    config, weights = import_weights(read_weights(checkpoint), checkpoint)
    if len(vocabulary) > config.mt5.vocab_size:
        problem = (
            f"{vocabulary.path} has {len(vocabulary)} pieces, {checkpoint} only {config.mt5.vocab_size} embeddings"
        )
        raise InputError("--tokenizer", problem, "give the spiece.model that the checkpoint was trained with")
    weights = {name: tensor.clone() for name, tensor in weights.items()}  # safetensors refuses shared memory
    unused = {name: weights.pop(name) for name in list(weights) if is_unused(name)}
    p_samp = 0.1 if config.rgb else 0.0
    data = DataSettings(task=task, max_frames=max_frames, p_samp=p_samp, sampling="published", boxes="sampled")
    save_model(out, config, weights, vocabulary, data)
    if unused:
        save_weights(out / UNUSED_FILE, unused)
    print(f"{out}: {'RGB-pose' if config.rgb else 'pose-only'}, {_described(weights | unused)}")


def export_published(model: tyro.conf.Positional[str], out: Path) -> None:
    """Convert a model folder to a checkpoint that the authors' code loads.

    Args:
        model: Model folder (best/ or last/ of a run), or its hub id.
        out: .pth file to write.
    """
    from unisign_fast.checkpoints.model_folder import UNUSED_FILE, find_model, with_tied
    from unisign_fast.checkpoints.weight_files import read_weights, write_torch_file
    from unisign_fast.model.config import ModelConfig
    from unisign_fast.published.convert import export_weights

    folder = find_model(model)
    config = ModelConfig.load(folder / "config.json")
    weights = with_tied(read_weights(folder / "model.safetensors"))
    if (folder / UNUSED_FILE).is_file():
        weights |= read_weights(folder / UNUSED_FILE)
    published = export_weights(config, weights, folder / "model.safetensors")
    write_torch_file(out, {"model": OrderedDict(published)})
    print(f"{out}: {'RGB-pose' if config.rgb else 'pose-only'}, {_described(published)}")


def untrim(model: tyro.conf.Positional[str], full: str, out: Path) -> None:
    """Give a model that was trained with --trim-vocabulary the full vocabulary.

    Args:
        model: Model folder (best/ or last/ of a run), or its hub id.
        full: The model that its training started from: an mT5 (folder or hub id), or a model folder.
        out: Model folder to write; it must be new.
    """
    from unisign_fast.checkpoints.model_folder import find_model, load_data_settings, read_card, save_model, with_tied
    from unisign_fast.checkpoints.weight_files import read_weights
    from unisign_fast.model.config import ModelConfig
    from unisign_fast.text.tokenizer import Tokenizer
    from unisign_fast.text.vocabulary_trimming import rows_of, untrimmed_weights
    from unisign_fast.training.initial_weights import read_vocabulary

    if out.exists():
        raise InputError("--out", f"{out} already exists", "name a new folder")
    folder = find_model(model)
    config = ModelConfig.load(folder / "config.json")
    tokenizer, embedding, head = read_vocabulary(full, "--full")
    rows = rows_of(Tokenizer(folder), tokenizer)
    if len(rows) != config.mt5.vocab_size:
        problem = f"has {config.mt5.vocab_size} rows for {len(rows)} pieces: its vocabulary was not trimmed"
        raise InputError(folder, problem, "name a model trained with --trim-vocabulary")
    if embedding.shape[1] != config.mt5.d_model:
        problem = f"is {embedding.shape[1]} wide, the trimmed model {config.mt5.d_model}"
        raise InputError(f"--full {full}", problem, "name the model that its training started from")
    weights = with_tied(read_weights(folder / "model.safetensors"))
    weights = untrimmed_weights(weights, rows, embedding, head)
    config = replace(config, mt5=replace(config.mt5, vocab_size=len(embedding)))
    save_model(out, config, weights, tokenizer, load_data_settings(folder), read_card(folder))
    print(f"{out}: {len(rows)} trained rows of {len(embedding)}, {_described(weights)}")


def _described(weights: dict) -> str:
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
    return f"{len(weights)} tensors, {', '.join(kinds)}"


if __name__ == "__main__":
    run_command({"import": import_published, "export": export_published, "untrim": untrim})
