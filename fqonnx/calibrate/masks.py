"""Which input, if any, says what is padding."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fqonnx.errors import DataError
from fqonnx.session import InputInfo

# Only names whose ones mean "keep": PyTorch's key_padding_mask means the opposite.
_MASK_NAME = re.compile(r"(^|[./])((\w+_)?attention_mask|input_mask|mask)$")


def find_mask_input(inputs: Sequence[InputInfo], requested: str | None = None) -> str | None:
    """Return the name of the input (batch, length) whose zeros mark padding, or None.

    Args:
        inputs: The graph inputs.
        requested: A name that a user gave; it wins.

    Raises:
        DataError: There is no input of the requested name.
    """
    names = [value.name for value in inputs]
    if requested is not None:
        if requested not in names:
            raise DataError(
                "--mask-input",
                f"the model has no input {requested!r}; it has {', '.join(names)}",
                "Name one of them",
            )
        return requested
    found = [v.name for v in inputs if len(v.shape) == 2 and _MASK_NAME.search(v.name)]
    return found[0] if len(found) == 1 else None
