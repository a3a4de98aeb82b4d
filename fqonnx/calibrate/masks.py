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
        DataError: There is no input of the requested name, or it is of a float type.
    """
    names = [value.name for value in inputs]
    if requested is not None:
        if requested not in names:
            raise DataError(
                "--mask-input",
                f"the model has no input {requested!r}; it has {', '.join(names)}",
                "Name one of them",
            )
        dtype = inputs[names.index(requested)].dtype
        if dtype.kind == "f":  # 0 to keep and −∞ to drop, or 1 and 0: the type does not tell
            raise DataError(
                "--mask-input",
                f"input {requested!r} is {dtype}, expected integers or booleans",
                "Leave padding out of the samples instead",
            )
        return requested
    found = [
        value.name
        for value in inputs
        if len(value.shape) == 2 and value.dtype.kind != "f" and _MASK_NAME.search(value.name)
    ]
    return found[0] if len(found) == 1 else None
