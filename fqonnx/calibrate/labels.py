"""The right class of each sample, read from a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.errors import DataError, first_line
from fqonnx.files import regular


def load_labels(path: Path, num_samples: int) -> NDArray[np.integer[Any]]:
    """Read an ``.npy`` file of integers (num_samples,).

    Raises:
        DataError: The file holds something else.
        ConfigError: It is a device or a pipe.
    """
    advice = f"Save one integer a sample, {num_samples} in all, with numpy.save"
    try:
        with regular(path).open("rb") as file:
            labels = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(str(path), "no such file", "Check the path") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        found = f"not readable as .npy: {first_line(error)}"
        raise DataError(str(path), found, advice) from error
    if not isinstance(labels, np.ndarray):
        raise DataError(str(path), "it holds several arrays, expected one", advice)
    if labels.shape != (num_samples,) or labels.dtype.kind not in "iu":
        raise DataError(
            str(path),
            f"it is {labels.dtype}{labels.shape}, expected integers ({num_samples},)",
            advice,
        )
    return labels
