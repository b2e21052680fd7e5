"""The target of a clip: kind of text and language."""

from typing import Literal

LANGUAGES = {
    "zh": "Chinese",
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "ru": "Russian",
    "uk": "Ukrainian",
    "pl": "Polish",
    "tr": "Turkish",
    "ar": "Arabic",
    "fa": "Persian",
    "hi": "Hindi",
    "ja": "Japanese",
    "ko": "Korean",
    "vi": "Vietnamese",
}  # ISO 639-1 -> language name used in the prompt
Task = Literal["slt", "cslr", "islr"]  # the target: sentence, glosses or word
