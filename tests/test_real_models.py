"""End to end on trained models: quality that a user would notice the loss of."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

import docstrings
import minilm
import mnist
from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.export import export_model
from support import mlp_by_the_reference, shared_data


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minilm")
    export_model(minilm.sentence_encoder(), folder / "minilm.onnx")
    sentences = docstrings.sentences()
    save_text(folder, "", sentences[:96], sentences[96:224])
    return folder


def save_text(folder: Path, prefix: str, calibration: list[str], evaluation: list[str]) -> None:
    """Save tokens, and the embeddings that the float model gives."""
    np.savez(folder / f"{prefix}calibration.npz", **minilm.tokenize(calibration))
    feed = minilm.tokenize(evaluation)
    expected = session(folder / "minilm.onnx").run(None, feed)[0]
    np.savez(folder / f"{prefix}evaluation.npz", expected=expected, **feed)


def embedding_cosine(folder: Path, compiled: Path, prefix: str = "") -> float:
    feed = dict(np.load(folder / f"{prefix}evaluation.npz"))
    expected = feed.pop("expected")
    return float((expected * session(compiled).run(None, feed)[0]).sum(axis=1).mean())


def compile_encoder(
    folder: Path, config: CompileConfig, calibration: str = "calibration.npz"
) -> CompileReport:
    out = folder / "out.onnx"
    data = folder / calibration if calibration.endswith(".npz") else calibration
    report = compile_model(folder / "minilm.onnx", out, config, calibration=data)
    onnx.checker.check_model(str(out), full_check=True)
    return report


@pytest.mark.parametrize(
    ("config", "calibration", "least_cosine", "most_bits"),
    [
        (CompileConfig(), "calibration.npz", 0.86, 2.06),
        (CompileConfig(redundancy=1.125), "calibration.npz", 0.88, 2.31),
        (CompileConfig(codebook="trellis"), "calibration.npz", 0.89, 2.06),
        (CompileConfig(bits=4, lowering="stock"), "calibration.npz", 0.985, 4.06),
        (CompileConfig(), "synthetic", 0.74, 2.06),
    ],
)
def test_minilm(
    config: CompileConfig, calibration: str, least_cosine: float, most_bits: float, encoder: Path
) -> None:
    report = compile_encoder(encoder, config, calibration)
    quantized = [layer for layer in report.layers if layer.status == "quantized"]
    assert len(quantized) == 36
    assert report.calibration.mask_input == "attention_mask"
    assert report.model.bits_per_weight is not None
    assert report.model.bits_per_weight <= most_bits
    assert embedding_cosine(encoder, encoder / "out.onnx") >= least_cosine
    assert report.timing["total_s"] < 180


def lines(name: str) -> list[str]:
    """Return the lines of WikiText-2 that are sentences, in an order of their own."""
    text = (shared_data("wikitext2") / name).read_text(encoding="utf-8")
    stripped = (line.strip() for line in text.splitlines())
    chosen = [line for line in stripped if len(line) > 80 and not line.startswith("=")]
    random.Random(0).shuffle(chosen)
    return chosen


def test_minilm_by_framequant(encoder: Path) -> None:
    save_text(encoder, "wiki-", lines("valid.txt")[:96], lines("test.txt")[:128])
    config = CompileConfig(method="framequant")
    report = compile_encoder(encoder, config, "wiki-calibration.npz")
    assert (report.calibration.num_samples, report.calibration.num_compared) == (84, 12)
    assert report.model.code_bits_per_weight == 2.0
    assert report.model.bits_per_weight == pytest.approx(2.051, abs=1e-3)
    assert embedding_cosine(encoder, encoder / "out.onnx", "wiki-") == pytest.approx(0.67, abs=0.05)


def test_padding_does_not_count(encoder: Path) -> None:
    # The same sentences with 40 more columns of padding give the same Hessians, so the same file.
    arrays = dict(np.load(encoder / "calibration.npz"))
    width = arrays["input_ids"].shape[1]
    padded = {k: np.pad(v, ((0, 0), (0, 40))) for k, v in arrays.items()}
    assert padded["input_ids"].shape[1] == width + 40
    np.savez(encoder / "padded.npz", **padded)
    config = CompileConfig(include=("*layer.0.attention.self.query",))
    errors = [
        compile_encoder(encoder, config, name).layers[0].output_rel_error
        for name in ("calibration.npz", "padded.npz")
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def language_model_data(name: str, part: str, count: int) -> np.ndarray:
    tokens = np.load(shared_data(name) / "tokens.npz")[part]
    whole = tokens[(tokens[:, :128] >= 0).all(axis=1)][:count, :128]
    return whole.astype(np.int64)


def nats_per_token(path: Path, ids: np.ndarray) -> float:
    logits = session(path).run(None, {"input_ids": ids[:, :-1]})[0].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
    return float((np.log(np.exp(logits).sum(axis=-1)) - chosen).mean())


@pytest.mark.parametrize(("bits", "most_rise"), [(2, 0.10), (4, 0.01)])
def test_character_language_model(bits: int, most_rise: float, tmp_path: Path) -> None:
    path, out = shared_data("gpt_shakespeare") / "model.onnx", tmp_path / "out.onnx"
    np.savez(tmp_path / "c.npz", input_ids=language_model_data("gpt_shakespeare", "holdout", 64))
    compile_model(path, out, CompileConfig(bits=bits), calibration=tmp_path / "c.npz")
    ids = language_model_data("gpt_shakespeare", "dev", 64)
    assert nats_per_token(out, ids) - nats_per_token(path, ids) <= most_rise


def test_small_llama(tmp_path: Path) -> None:
    path, out = shared_data("stories260k") / "model.onnx", tmp_path / "out.onnx"
    np.savez(tmp_path / "c.npz", input_ids=language_model_data("stories260k", "holdout", 64))
    compile_model(path, out, CompileConfig(bits=4), calibration=tmp_path / "c.npz")
    ids = language_model_data("stories260k", "dev", 64)
    assert nats_per_token(out, ids) - nats_per_token(path, ids) <= 0.2


def test_keyword_transformer(tmp_path: Path) -> None:
    folder, out = shared_data("kwt1"), tmp_path / "out.onnx"
    data = np.load(folder / "features.npz")
    np.savez(tmp_path / "c.npz", mfcc=data["x"][1::2])
    report = compile_model(folder / "model.onnx", out, calibration=tmp_path / "c.npz")
    assert sum(layer.op_type == "Gemm" for layer in report.layers) == 1
    logits = session(out).run(None, {"mfcc": data["x"][::2]})[0]
    assert (logits.argmax(axis=1) == data["y"][::2]).mean() >= 0.92


def test_sorting_gpt_still_sorts_at_4_bits(tmp_path: Path) -> None:
    path, out = shared_data("gpt_sort") / "model.onnx", tmp_path / "out.onnx"
    rng = np.random.default_rng(0)
    unsorted = rng.integers(0, 3, (256, 6))
    ids = np.concatenate([unsorted, np.sort(unsorted, axis=1)[:, :5]], axis=1)
    np.savez(tmp_path / "c.npz", input_ids=ids)
    compile_model(path, out, CompileConfig(bits=4), calibration=tmp_path / "c.npz")
    fresh = rng.integers(0, 3, (256, 6))
    ordered = np.sort(fresh, axis=1)
    feed = {"input_ids": np.concatenate([fresh, ordered[:, :5]], axis=1)}
    assert (session(out).run(None, feed)[0][:, 5:].argmax(axis=-1) == ordered).mean() >= 0.98


def test_mnist_network_of_gemms(tmp_path: Path) -> None:
    path, out = shared_data("mnist_mlp3") / "model.onnx", tmp_path / "out.onnx"
    report = compile_model(path, out, CompileConfig(bits=4), calibration="synthetic")
    assert [x.op_type for x in report.layers if x.status == "quantized"] == ["Gemm"] * 3
    assert report.outputs[0].cosine >= 0.98


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the test images of MNIST (10000, 784), and what they show."""
    images, shown = mnist.Mnist.read(shared_data("mnist")).test
    return images.reshape(len(images), -1), shown


@pytest.mark.parametrize("quantize_bias", [True, False])
def test_mnist_by_sigma_delta(
    quantize_bias: bool, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, shown = digits
    path, out = shared_data("mnist_mlp3") / "model.onnx", tmp_path / "out.onnx"
    np.savez(tmp_path / "compared.npz", pixels=images[:256])
    config = CompileConfig(method="sigma-delta", bits=1, quantize_bias=quantize_bias)
    report = compile_model(path, out, config, calibration=tmp_path / "compared.npz")
    assert report.calibration.compared_on == "held-back"
    (bound,) = report.bounds
    assert 0 < bound.error <= bound.bound <= bound.bound_by_frame
    for layer in report.layers:
        values = layer.weight_rel_error, layer.weight_rel_bound, layer.variation_rel_bound
        assert 0 < values[0] <= values[1] <= values[2]

    found = session(out).run(None, {"pixels": images})[0]
    assert (found.argmax(axis=1) == shown).mean() >= 0.9729  # of arXiv 2404.08131
    errors = np.linalg.norm(found - session(path).run(None, {"pixels": images})[0], axis=1)
    sizes = np.linalg.norm(images.astype(np.float64), axis=1)
    shorter = sizes <= bound.input_norm
    assert errors[shorter].max() <= bound.bound
    expected = mlp_by_the_reference(out, images[:64])
    assert np.linalg.norm(found[:64] - expected) <= 1e-5 * np.linalg.norm(expected)


def test_mnist_at_1_bit_without_data(digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    images, shown = digits
    path, out = shared_data("mnist_mlp3") / "model.onnx", tmp_path / "out.onnx"
    compile_model(path, out, CompileConfig(bits=1, redundancy=2.0), calibration="none")
    found = session(out).run(None, {"pixels": images})[0]
    assert (found.argmax(axis=1) == shown).mean() >= 0.98


def pictures(part: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every second test picture of CIFAR10 (count, 3, 32, 32), and what it shows."""
    with zipfile.ZipFile(shared_data("cifar10_jpeg") / "test.zip") as archive:
        names = sorted(archive.namelist())[part::2][:count]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    shown = [int(Path(name).name[0]) for name in names]
    return np.stack(images).astype(np.float32).transpose(0, 3, 1, 2), np.array(shown)


@pytest.mark.parametrize(
    ("config", "most_lost", "most_bits"),
    [(CompileConfig(), 0.12, 2.11), (CompileConfig(bits=4, lowering="onnx"), 0.03, 4.09)],
    ids=["2 bits", "4 bits"],
)
def test_residual_network(
    config: CompileConfig, most_lost: float, most_bits: float, tmp_path: Path
) -> None:
    path, out = shared_data("resnet8_cifar10") / "model.onnx", tmp_path / "out.onnx"
    np.savez(tmp_path / "c.npz", pixels255=pictures(1, 512)[0])
    report = compile_model(path, out, config, calibration=tmp_path / "c.npz")
    onnx.checker.check_model(str(out), full_check=True)
    quantized = [layer for layer in report.layers if layer.status == "quantized"]
    assert [layer.op_type for layer in quantized] == ["Conv"] * 7
    assert report.model.bits_per_weight is not None
    assert report.model.bits_per_weight <= most_bits
    images, shown = pictures(0, 2000)
    right = [
        (session(file).run(None, {"pixels255": images})[0].argmax(axis=1) == shown).mean()
        for file in (path, out)
    ]
    assert right[0] - right[1] <= most_lost


@pytest.mark.parametrize("quantize_bias", [True, False])
def test_residual_network_is_within_its_bounds(quantize_bias: bool, tmp_path: Path) -> None:
    path, out = shared_data("resnet8_cifar10") / "model.onnx", tmp_path / "out.onnx"
    np.savez(tmp_path / "c.npz", pixels255=pictures(1, 128)[0])
    config = CompileConfig(method="sigma-delta", bits=2, quantize_bias=quantize_bias)
    report = compile_model(path, out, config, calibration=tmp_path / "c.npz")
    (bound,) = report.bounds
    assert 0 < bound.error <= bound.bound <= bound.bound_by_frame
    quantized = [layer for layer in report.layers if layer.status == "quantized"]
    assert len(quantized) == 7
    for layer in quantized:
        values = layer.weight_rel_error, layer.weight_rel_bound, layer.variation_rel_bound
        assert 0 < values[0] <= values[1] <= values[2]
