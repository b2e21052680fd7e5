"""The message that a user gets for invalid input."""

from collections.abc import Callable

import pytest

from unisign_fast.pipelines.errors import InputError


def refusal(action: Callable[..., object], *arguments: object, **options: object) -> str:
    """The one line of the InputError that the call raises."""
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
