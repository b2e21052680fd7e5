"""Statistics of a corpus of keypoint stores: durations, text lengths, vocabulary and overlap between splits.

The figure corresponds to the paper's Figures 2 and 8 for CSL-News. Texts are counted in units: characters for Chinese,
as in the paper, and for other languages written without spaces; words for all other languages. Punctuation and case are
ignored. Clips are read one at a time, and only a few numbers per clip are kept.
"""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ..errors import InputError
from ..store.clip import ALL_SPLITS, Clip
from ..store.keypoint_store import KeypointStore
from ..targets import LANGUAGES, has_spaces, language_code

FORMATS = (".png", ".svg", ".pdf")
SHOWN = 5  # examples shown of each kind of duplicate
LONGEST = 99.5  # percentile of the clips at which the figure's axes end


@dataclass
class Group:
    """The clips of one language and split: seconds and text length of each clip, and how often each unit occurs."""

    seconds: array = field(default_factory=lambda: array("f"))
    lengths: array = field(default_factory=lambda: array("I"))
    vocabulary: Counter = field(default_factory=Counter)


@dataclass
class Corpus:
    """The clips of several stores, numbered one store after the other."""

    stores: list[KeypointStore]
    groups: dict[tuple[str, str], Group]  # (language code, split), in the order of LANGUAGES and ALL_SPLITS
    splits: np.ndarray  # of each clip: which of ALL_SPLITS, uint8
    texts: np.ndarray  # of each clip: a 64-bit hash of its text with normalised white space
    keypoints: np.ndarray  # of each clip: checksum and number of frames of its keypoints, uint64

    def languages(self) -> list[str]:
        """The languages of the texts."""
        return list(dict.fromkeys(language for language, _ in self.groups))

    def groups_in(self, language: str) -> dict[str, Group]:
        """The groups of a language by their split."""
        return {split: group for (own, split), group in self.groups.items() if own == language}

    def clip(self, number: int) -> Clip:
        """The clip of this number, counted from 0."""
        for store in self.stores:
            if number < len(store.clips):
                return store.clips[number]
            number -= len(store.clips)
        raise IndexError(number)


def read_corpus(paths: Sequence[Path]) -> Corpus:
    """Raises InputError if one of `paths` is not a complete store, or all are empty."""
    stores = [KeypointStore.open(path) for path in paths]
    if not any(len(store.clips) for store in stores):
        raise InputError(", ".join(map(str, paths)), "hold no clips", "name stores that contain clips")
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    splits, texts = array("B"), array("Q")
    console = Console(stderr=True)
    for store in stores:
        for clip in track(store.clips, str(store.path), console=console, disable=not console.is_terminal):
            group, units = groups[language_code(clip.language), clip.split], units_of(clip.text, clip.language)
            group.seconds.append(clip.frames / clip.fps)
            group.lengths.append(len(units))
            group.vocabulary.update(units)
            splits.append(ALL_SPLITS.index(clip.split))
            text = " ".join(clip.text.split()) or f"\0{len(texts)}"  # an empty text is not a duplicate
            digest = blake2b(text.encode(), digest_size=8).digest()
            texts.append(int.from_bytes(digest, "little"))
    crc32c, frames = (np.concatenate([getattr(store.clips, name) for store in stores]) for name in ("crc32c", "frames"))
    keypoints = crc32c.astype(np.uint64) << np.uint64(32) | frames.astype(np.uint64)
    codes = [*LANGUAGES, *sorted({code for code, _ in groups} - LANGUAGES.keys())]
    keys = [(code, split) for code in codes for split in ALL_SPLITS if (code, split) in groups]
    return Corpus(
        stores,
        {key: groups[key] for key in keys},
        np.asarray(splits, np.uint8),
        np.asarray(texts, np.uint64),
        keypoints,
    )


def unit_name(language: str) -> str:
    """The unit in which a text is counted: words, or characters if the language is written without spaces."""
    return "words" if has_spaces(language) else "characters"


def units_of(text: str, language: str) -> list[str]:
    """The words or characters of a text, as `unit_name` says, in lower case; no punctuation."""
    return re.findall(r"\w" if unit_name(language) == "characters" else r"\w+(?:['’-]\w+)*", text.lower())


def describe(corpus: Corpus) -> str:
    """A table by language and split: clips, hours, seconds per clip, units per text, vocabulary, singletons, unknown
    units. Singletons are units that occur once. Unknown units do not occur in the train split of the language; they are
    given in percent of all occurrences, not of the vocabulary.
    """
    rows: list[tuple[str, ...]] = [
        ("", "clips", "hours", "s a clip", "text length", "vocabulary", "singletons", "unknown %")
    ]
    for language in corpus.languages():
        parts = corpus.groups_in(language)
        known = parts["train"].vocabulary if "train" in parts else None
        rows += [
            _row(f"{language} {split}", group, None if split == "train" else known) for split, group in parts.items()
        ]
        if len(parts) > 1:
            rows.append(_row(f"{language} all", _together(list(parts.values())), None))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    units = ", ".join(f"{unit_name(language)} ({language})" for language in corpus.languages())
    return "\n".join([*lines, f"texts are counted in {units}"])


def _row(name: str, group: Group, known: Counter | None) -> tuple[str, ...]:
    seconds, total = np.asarray(group.seconds), group.vocabulary.total()
    once = sum(count == 1 for count in group.vocabulary.values())
    unknown = ""
    if known and total:
        unknown = f"{100 * sum(n for unit, n in group.vocabulary.items() if unit not in known) / total:.2f}"
    numbers = f"{seconds.sum(dtype=np.float64) / 3600:.2f}", f"{seconds.mean():.2f}", f"{np.mean(group.lengths):.2f}"
    return name, str(len(seconds)), *numbers, str(len(group.vocabulary)), str(once), unknown


def _together(groups: list[Group]) -> Group:
    total = Group()
    for group in groups:
        total.seconds.extend(group.seconds)
        total.lengths.extend(group.lengths)
        total.vocabulary.update(group.vocabulary)
    return total


def duplicates(corpus: Corpus) -> str:
    """Keypoints (equal checksum and length) and texts that occur in more than one split: their counts and the first few
    examples."""
    repeats = _across_splits(corpus.keypoints, corpus.splits)
    same_text = sum(len(set(corpus.texts[numbers])) == 1 for numbers in repeats)
    texts = f", {same_text} with one text, {len(repeats) - same_text} with several" if repeats else ""
    lines = [f"keypoints in more than one split: {len(repeats)}{texts}"]
    lines += ["  " + " = ".join(_name(corpus.clip(number)) for number in numbers[:4]) for numbers in repeats[:SHOWN]]
    repeats = _across_splits(corpus.texts, corpus.splits)
    pairs = Counter(pair for numbers in repeats for pair in combinations(sorted(set(corpus.splits[numbers])), 2))
    counts = ", ".join(f"{ALL_SPLITS[a]} and {ALL_SPLITS[b]} {pairs[a, b]}" for a, b in sorted(pairs))
    lines.append(f"texts in more than one split: {len(repeats)}{f' ({counts})' if pairs else ''}")
    lines += [f"  {corpus.clip(numbers[0]).text[:100]}" for numbers in repeats[:SHOWN]]
    return "\n".join(lines)


def _across_splits(keys: np.ndarray, splits: np.ndarray) -> list[np.ndarray]:
    """The clip numbers of every key that occurs in more than one split, ordered by each key's first clip."""
    if len(keys) == 0:
        return []
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
    ends = np.r_[starts[1:], len(keys)]
    mixed = np.minimum.reduceat(splits[order], starts) != np.maximum.reduceat(splits[order], starts)
    return sorted((order[a:b] for a, b in zip(starts[mixed], ends[mixed])), key=lambda numbers: numbers[0])


def _name(clip: Clip) -> str:
    return f"{clip.split} {clip.id} ({clip.text[:50]})"


def draw(corpus: Corpus, path: Path) -> None:
    """Draws durations, text lengths and vocabulary of each language into `path`, whose suffix selects the format.

    Raises InputError if the suffix is not in FORMATS or the path cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(path, f"has none of the suffixes {', '.join(FORMATS)}", "give the file one of them")
    from matplotlib.figure import Figure  # late import: it takes a second

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    for place, language in enumerate(corpus.languages()):
        total = _together(list(corpus.groups_in(language).values()))
        colour = f"C{place}"
        _draw_distribution(panels[0], np.asarray(total.seconds), language, "s", colour)
        _draw_distribution(panels[1], np.asarray(total.lengths), language, unit_name(language), colour)
        if total.vocabulary:
            _draw_vocabulary(panels[2], sorted(total.vocabulary.values(), reverse=True), language, colour)
    for panel, title, across, up in (
        (panels[0], "Durations", "seconds (last bar: and more)", "clips"),
        (panels[1], "Text lengths", "characters or words (last bar: and more)", "clips"),
        (panels[2], "Vocabulary", "rank of the character or word", "occurrences"),
    ):
        panel.set(title=title, xlabel=across, ylabel=up)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(path, f"cannot be written ({error.strerror})", "name another file") from None


def _draw_distribution(panel, values: np.ndarray, language: str, unit: str, colour: str) -> None:
    """A histogram with the mean. Counts of units are integers, so the width of their bars is an integer, too.

    The number of bars is about twice the square root of the number of clips, limited to 6-40.
    """
    from matplotlib.ticker import MaxNLocator

    top = np.percentile(values, LONGEST)
    is_integer = values.dtype.kind != "f"
    bars = min(40, max(6, round(2 * len(values) ** 0.5)))
    step = max(1, np.ceil(top / bars)) if is_integer else top / bars
    edges = step * np.arange(int(top / step) + 2) - (0.5 if is_integer else 0)
    label = f"{language}: mean {values.mean():.1f} {unit}"
    panel.hist(
        values.clip(max=edges[-2]), edges, color=colour, alpha=0.6, edgecolor="white", linewidth=0.5, label=label
    )
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.axvline(values.mean(), color=colour, linestyle="--")
    panel.margins(y=0.2)  # room for the legend


def _draw_vocabulary(panel, counts: list[int], language: str, colour: str) -> None:
    """Occurrences by rank on logarithmic axes; if there are few points they are marked, and ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    marker = "o" if len(counts) <= 200 else ""
    ranks = np.arange(1, len(counts) + 1)
    panel.loglog(ranks, counts, marker=marker, markersize=3, color=colour, label=f"{language}: {len(counts)} different")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    panel.set_ylim(0.8, max(10, 1.5 * counts[0], panel.get_ylim()[1]))
