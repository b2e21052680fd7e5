"""The model card of a model folder: the model, its training data and recipe, and its scores.

Markdown with the front matter that the Hugging Face hub reads.
"""

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from unisign_fast.pipelines.settings import DataSettings

if TYPE_CHECKING:
    from unisign_fast.model.config import ModelConfig

TASK_NAMES = {
    "slt": "sign language translation",
    "cslr": "continuous sign language recognition",
    "islr": "isolated sign language recognition",
}
USE = """```python
from unisign_fast import UniSign

model = UniSign.from_pretrained("FOLDER OR HUB ID")
```

Scores and predictions of a keypoint store's test split:

```bash
python launch/evaluate.py --model FOLDER --stores STORE --task {task} --split test --out OUT
```"""


def model_card(
    config: "ModelConfig",
    data: DataSettings,
    recipe: Mapping[str, object] | None = None,
    scores: Mapping | None = None,
    languages: Sequence[str] = (),
) -> str:
    """The text of README.md.

    `recipe`: the content of a run's settings.json, with store names for paths. `scores`: the content of
    scores-SPLIT.json, with its `split`. `languages`: those of the training texts (ISO 639-1), empty if unknown.
    """
    if scores and scores.get("language") and not languages:
        languages = [scores["language"]]
    title = f"Uni-Sign, {'RGB-pose' if config.rgb else 'pose-only'}"
    parts = [f"# {title}", _description(config, data), "## Use", USE.format(task=data.task)]
    parts += ["## Data", "\n".join(_data_lines(config, data, recipe or {}))]
    parts += ["## Recipe", _recipe_lines(recipe) if recipe else "Not recorded."]
    parts += ["## Scores", _score_lines(scores) if scores else "Not recorded."]
    front = ModelCardData(
        library_name="unisign_fast",
        tags=["sign-language", TASK_NAMES[data.task].replace(" ", "-")],
        model_name=title,
        eval_results=_results(data, recipe or {}, scores) if scores else None,
        language=languages[0] if len(languages) == 1 else list(languages) or None,
    )
    return f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _description(config: "ModelConfig", data: DataSettings) -> str:
    mt5 = config.mt5
    layers = f"{mt5.num_layers} + {mt5.num_decoder_layers} layers of width {mt5.d_model}, {mt5.vocab_size} tokens"
    kind = f"{TASK_NAMES[data.task]} from {config.parts.replace(',', ', ')} keypoints"
    rgb = f" and sampled hand crops (fusion: {config.fusion}, gate: {config.gate})" if config.rgb else ""
    return f"A Uni-Sign model (ICLR 2025): {kind}{rgb}; mT5 of {layers}; output: {config.head.replace('_', ' ')}."


def _data_lines(config: "ModelConfig", data: DataSettings, recipe: Mapping) -> list[str]:
    stores = ", ".join(recipe.get("stores", ())) or "not recorded"
    crops = f"{data.p_samp:.0%} of them with {data.crop_size}-pixel hand crops (rule: {data.sampling})"
    frames = f"at most {data.max_frames} frames per clip, {crops if data.p_samp else 'no hand crops'}"
    return [f"- trained on: {stores}", f"- input: {config.skeleton} keypoints of {frames}"]


def _recipe_lines(recipe: Mapping) -> str:
    return f"```json\n{json.dumps(recipe, indent=1, ensure_ascii=False)}\n```"


def _score_lines(scores: Mapping) -> str:
    rows = [f"On the {scores['split']} split, {scores['count']} clips, in percent:", ""]
    rows += ["| metric | score | 95 % interval |", "|---|---|---|"]
    for metric, value in scores["values"].items():
        low, high = scores["intervals"].get(metric, (nan, nan))  # a damaged file may lack it
        rows.append(f"| {metric} | {value:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join([*rows, "", f"`{scores['signature']}`"])


def _results(data: DataSettings, recipe: Mapping, scores: Mapping) -> list[EvalResult]:
    dataset = ", ".join(recipe.get("stores", ())) or "unknown"
    return [
        EvalResult(
            task_type=data.task,
            task_name=TASK_NAMES[data.task],
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=scores["split"],
            metric_type=metric.lower().replace(" ", "-"),
            metric_name=metric,
            metric_value=round(value, 2),
        )
        for metric, value in scores["values"].items()
    ]
