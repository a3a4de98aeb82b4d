"""The noise floor: what rounding to half precision does to the float model itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx_ir as ir

from fqonnx.errors import ModelError, first_line
from fqonnx.model_file import file_bytes
from fqonnx.session import Session

_MOST_BYTES = 1 << 28  # of a model that is converted: the converter takes five times as much


def half_precision_session(path: Path) -> Session:
    """Return a session of the float model with weights and operators in float16.

    Its inputs and outputs stay what they are. ONNX Runtime's own converter makes the model.

    Args:
        path: The float model.

    Raises:
        ModelError: The model is too large, or cannot be converted.
    """
    where, advice = f"{path} in float16", "The comparison does without its noise floor"
    size = file_bytes(path)
    if size > _MOST_BYTES:
        raise ModelError(where, f"not converted: {size / 1e9:.1f} GB", advice)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that float16 rounds to zero
            converted = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    except Exception as error:  # whatever a converter stumbles over
        raise ModelError(where, f"not converted: {first_line(error)}", advice) from error
    return Session(ir.from_proto(converted), where)
