"""What a row of the table is: three files, and a figure of quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

MODEL, CALIBRATION, JUDGED = "float.onnx", "calibration.npz", "judged.npz"
TARGETS = "targets"
PADDING = -1


class UnavailableError(Exception):
    """Why a row cannot be made here."""


@dataclass(frozen=True)
class Metric:
    """A figure of quality: outputs and targets in, one number out.

    Attributes:
        name: What the table calls it.
        score: From outputs (count, …) and targets (count, …).
        show: How the number is written.
    """

    name: str
    score: Callable[[np.ndarray, np.ndarray], float]
    show: Callable[[float], str]


@dataclass(frozen=True)
class Row:
    """An architecture.

    Attributes:
        name: What ``--only`` calls it.
        title: What the table calls it.
        about: Its parts and its data, for the page.
        metric: How its outputs are judged.
        make: Writes `MODEL`, `CALIBRATION` and `JUDGED` into a folder, given the folder of
            pretrained models or None. `JUDGED` holds the model's inputs and `TARGETS`.
    """

    name: str
    title: str
    about: str
    metric: Metric
    make: Callable[[Path, Path | None], None]


def judge(model: Path, folder: Path, metric: Metric) -> float:
    """Return the quality of a model on the judged samples of a row."""
    arrays = dict(np.load(folder / JUDGED))
    targets = arrays.pop(TARGETS)
    return metric.score(run(model, arrays), targets)


def run(model: Path, feed: dict[str, np.ndarray], batch: int = 25) -> np.ndarray:
    """Return the first output for all samples, by an unmodified ONNX Runtime."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    starts = range(0, len(next(iter(feed.values()))), batch)
    feeds = ({name: array[i : i + batch] for name, array in feed.items()} for i in starts)
    return np.concatenate([session.run(None, part)[0] for part in feeds])


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=-1) == labels).mean())


def _nats(logits: np.ndarray, following: np.ndarray) -> float:
    """Return −log p of what follows, over all tokens that are not padding."""
    known = following != PADDING
    shifted = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, np.where(known, following, 0)[..., None], axis=-1)
    nats = np.log(np.exp(shifted).sum(axis=-1)) - chosen[..., 0]
    return float(nats[known].mean(dtype=np.float64))


def _cosine(embeddings: np.ndarray, expected: np.ndarray) -> float:
    return float((embeddings * expected).sum(axis=-1).mean())


ACCURACY = Metric("accuracy", _accuracy, "{:.1%}".format)
NATS = Metric("nats a token", _nats, "{:.3f}".format)
COSINE = Metric("cosine to float", _cosine, "{:.3f}".format)
