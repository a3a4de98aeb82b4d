"""MNIST networks quantized with Sigma-Delta, by redundancy and bits: docs/sigma-delta.md.

    python tools/sigma_delta.py --data FOLDER [--cache FOLDER] [--markdown docs/sigma-delta.md]

FOLDER has the four idx files of MNIST. The networks are trained here, with a fixed seed, in a few
minutes, and kept in the cache.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from architectures.row import CALIBRATION, JUDGED, MODEL, TARGETS, run
from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.config import METHODS
from fqonnx.frames import HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.quant import quantize_weight, range_alphabet, sigma_delta
from mnist import recipes

REDUNDANCIES = (1.5, 2.0, 2.5, 2.75, 3.0, 4.0, 6.0, 8.0)
AUTO_REDUNDANCIES = (1.0, 1.25, 1.5, 2.0, 3.0)
KEPT = 97.0  # per cent
PAGE = """\
# Sigma-Delta on MNIST

`--method sigma-delta` is Frame Quantization of Neural Networks (arXiv 2404.08131): harmonic frames,
first-order Sigma-Delta, no data. The figures are test accuracies in per cent, on all 10 000 test
images, of compiled files in an unmodified ONNX Runtime; N/d is the redundancy, so that N/d times
the bits are stored a weight, and a step for each channel.

## Feed-forward network

784-512-512-10 with ReLU, trained here: {mlp_float:.2f} in float. All three layers are quantized;
with `--quantize-bias` the biases too.

{mlp_table}

The paper reports 97.29 at one bit. The least N/d of the table that keeps {kept:g}% at one bit is
**{least_sigma_delta}** with Sigma-Delta, and **{least_auto}** with `auto` and no data.

## One bit at N/d = 2

Two bits a weight, and no data. *weight error* is ‖W − Ŵ‖/‖W‖ of the three layers.

{variants_table}

- Sigma-Delta's step is the least that holds every coefficient, so that the state stays within half
  a step and the bounds hold. With smaller steps coefficients are clipped now and then, and no bound
  holds. The least weight error is not the best accuracy.
- Order 2 has more noise, at higher frequencies: at one bit and N/d = 2 the frame keeps most of it.
  It pays from N/d = 4 at two bits ([feedback.md](feedback.md)).
- The Sobolev dual (Blum, Lammers, Powell and Yılmaz 2010) rebuilds the weight by the dual frame
  that the noise of Sigma-Delta harms least, in place of the canonical one. It has no fast
  transform, so no compiled file has it.
- LDLQ with H = I has the filter that is best for the frame, in place of a difference. On a Hadamard
  frame, with coordinate descent behind it, that is `--method auto --calibration none`: what to use
  where no bound is needed. On the harmonic frame it takes wider steps than those of least weight
  error.

## Bounds

What the report of a compilation says ([method.md](method.md#bounds)). Of a weight, ‖W − Ŵ‖/‖W‖:
the measured error ≤ the bound that holds before it is quantized ≤ the paper's bound. Of the logits,
‖y − ŷ‖: the largest measured of {compared} held-back images ≤ the bound by the norms of the weights
and of their errors ≤ the bound by what the frame guarantees of these errors, both for any input as
long as the longest of the images.

{bounds_table}

## Residual network

Three blocks of two 3 × 3 convolutions, 16 to 64 channels, trained here: {resnet_float:.2f} in
float. Convolutions of fewer than 1024 weights and the last layer stay float. `auto` and `gptq` are
calibrated on {calibration} training images.

{resnet_table}

    make sigma-delta DATA=FOLDER

FOLDER has the idx files of MNIST. {machine}, onnxruntime {onnxruntime}, torch {torch}, {date}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's idx files")
    parser.add_argument("--cache", type=Path, help="keep the trained networks here")
    parser.add_argument("--markdown", type=Path, help="write the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        networks = make_networks(arguments.data, arguments.cache or Path(temporary))
        page = text(Network(networks["mlp"]), Network(networks["resnet"]))
    print(page)
    if arguments.markdown is not None:
        arguments.markdown.write_text(page, encoding="utf-8")


def make_networks(data: Path, cache: Path) -> dict[str, Path]:
    """Train what the cache lacks; return the folders of the networks by name."""
    folders = {}
    for name, recipe in recipes(data).items():
        folders[name] = cache / name
        if not (folders[name] / JUDGED).exists():  # what is written last
            folders[name].mkdir(parents=True, exist_ok=True)
            recipe.make(folders[name], None)
    return folders


class Network:
    """A trained network and its test images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inputs = dict(np.load(folder / JUDGED))
        self.digits = inputs.pop(TARGETS)
        self.inputs = inputs

    def accuracy(self, path: Path | None = None) -> float:
        """Return the accuracy of a file in per cent, of the float one where none is named."""
        return self.score(run(path or self.folder / MODEL, self.inputs))

    def score(self, logits: np.ndarray) -> float:
        return float((logits.argmax(1) == self.digits).mean() * 100)

    def compiled(self, config: CompileConfig, calibration: str) -> tuple[float, CompileReport]:
        """Return the accuracy of a compiled file, and its report."""
        path = self.folder / CALIBRATION if calibration == "images" else calibration
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "compiled.onnx"
            report = compile_model(self.folder / MODEL, output, config, calibration=path)
            return self.accuracy(output), report


def text(mlp: Network, resnet: Network) -> str:
    accuracies = {r: mlp_row(mlp, r) for r in REDUNDANCIES}
    auto = {r: no_data(mlp, "auto", 1, r) for r in AUTO_REDUNDANCIES}
    return PAGE.format(
        mlp_float=mlp.accuracy(),
        mlp_table=mlp_table(accuracies, auto),
        kept=KEPT,
        least_sigma_delta=least({r: cells[0] for r, cells in accuracies.items()}),
        least_auto=least(auto),
        variants_table=variants_table(mlp),
        bounds_table=bounds_table(mlp, resnet),
        resnet_float=resnet.accuracy(),
        calibration=len(np.load(resnet.folder / CALIBRATION)["pixels"]),
        compared=len(np.load(resnet.folder / CALIBRATION)["pixels"]) // 8,
        resnet_table=resnet_table(resnet),
        machine=platform.machine(),
        onnxruntime=version("onnxruntime"),
        torch=version("torch"),
        date=datetime.date.today(),
    )


def least(accuracies: dict[float, float]) -> str:
    kept = [r for r, accuracy in accuracies.items() if accuracy >= KEPT]
    return f"{min(kept):g}" if kept else "none"


def no_data(
    network: Network, method: str, bits: int, redundancy: float, **options: object
) -> float:
    config = CompileConfig(bits=bits, redundancy=redundancy, method=method, **options)
    return network.compiled(config, "none")[0]


def mlp_row(mlp: Network, redundancy: float) -> list[float]:
    sigma = [no_data(mlp, "sigma-delta", bits, redundancy) for bits in (1, 2, 3)]
    bias = no_data(mlp, "sigma-delta", 1, redundancy, quantize_bias=True)
    second = no_data(mlp, "sigma-delta", 2, redundancy, order=2)
    return [sigma[0], bias, *sigma[1:], second]


def mlp_table(accuracies: dict[float, list[float]], auto: dict[float, float]) -> str:
    lines = [
        "| N/d | 1 bit | 1 bit, biases too | 2 bits | 3 bits | 2 bits, order 2 | `auto`, 1 bit |",
        "|---|---|---|---|---|---|---|",
    ]
    for redundancy in sorted({*accuracies, *auto}):
        cells = [f"{accuracy:.2f}" for accuracy in accuracies.get(redundancy, [])] or [""] * 5
        cells.append(f"{auto[redundancy]:.2f}" if redundancy in auto else "")
        lines.append(f"| {redundancy:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


Quantizer = Callable[[torch.Tensor], torch.Tensor]


def variants_table(mlp: Network) -> str:
    variants: Sequence[tuple[str, Quantizer]] = (
        ("no feedback, the best step for Gaussian coefficients", by_method(feedback="none")),
        ("Sigma-Delta (`sigma-delta`)", sigma_delta_variant()),
        *(
            (f"Sigma-Delta, {share:g} of that step", sigma_delta_variant(share))
            for share in (0.7, 0.6, 0.5, 0.4, 0.3)
        ),
        ("Sigma-Delta of order 2", sigma_delta_variant(order=2)),
        ("Sigma-Delta, Sobolev dual", sigma_delta_variant(dual=True)),
        ("Sigma-Delta, 0.6 of that step, Sobolev dual", sigma_delta_variant(0.6, dual=True)),
        ("LDLQ with H = I, harmonic frame", by_method(frame="harmonic", damping=0.3)),
        *(
            (
                f"the same, steps {wider:g} times as wide",
                by_method(frame="harmonic", damping=0.3, step_multipliers=(wider,)),
            )
            for wider in (1.3, 1.6, 2.0)
        ),
        ("LDLQ with H = I, Hadamard frame", by_method()),
        ("the same with coordinate descent (`auto`)", by_method(sweeps=4)),
    )
    lines = ["| | weight error | accuracy |", "|---|---|---|"]
    for title, quantizer in variants:
        errors, accuracy = rebuilt(mlp, quantizer)
        shown = ", ".join(f"{error:.3f}" for error in errors)
        lines.append(f"| {title} | {shown} | {accuracy:.2f} |")
    return "\n".join(lines)


def by_method(frame: str = "hadamard", **changes: object) -> Quantizer:
    method = replace(METHODS["auto"], **{"sweeps": 0, "frame": frame, **changes})
    kind = HadamardFrame if frame == "hadamard" else HarmonicFrame

    def quantizer(weight: torch.Tensor) -> torch.Tensor:
        frame_in = kind.create(len(weight), 2.0)
        identity = IdentityFrame(weight.shape[1])
        return quantize_weight(weight, frame_in, identity, method, bits=1).dequantize()

    return quantizer


def sigma_delta_variant(share: float = 1.0, order: int = 1, *, dual: bool = False) -> Quantizer:
    def quantizer(weight: torch.Tensor) -> torch.Tensor:
        frame = HarmonicFrame.create(len(weight), 2.0)
        coeffs = frame.analysis(weight.T).T.contiguous()
        alphabet = range_alphabet(coeffs, 1, order)
        levels, _ = sigma_delta(coeffs, replace(alphabet, step=alphabet.step * share), order)
        if not dual:
            return frame.synthesis(levels.T).T
        # (D⁻¹T)⁺·D⁻¹: the left inverse of T that makes the least of the differences of a state.
        inverse = torch.ones(len(levels), len(levels), dtype=torch.float64).tril()
        return (torch.linalg.pinv(inverse @ frame.matrix()) @ (inverse @ levels.double())).float()

    return quantizer


def rebuilt(mlp: Network, quantizer: Quantizer) -> tuple[list[float], float]:
    """Return the errors of the weights, and the accuracy with the rebuilt ones."""
    model = ir.load(mlp.folder / MODEL)
    tensors = {
        name: torch.from_numpy(value.const_value.numpy().copy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    x, errors = torch.from_numpy(mlp.inputs["pixels"]), []
    for layer in ("0", "2", "4"):
        weight = tensors[f"{layer}.weight"].T.contiguous()
        found = quantizer(weight)
        errors.append(float((found - weight).norm() / weight.norm()))
        x = (x if layer == "0" else x.relu()) @ found + tensors[f"{layer}.bias"]
    return errors, mlp.score(x.numpy())


BOUNDED = ((3.0, 1, 1), (8.0, 2, 1), (8.0, 2, 2))  # N/d, bits, order


def bounds_table(mlp: Network, resnet: Network) -> str:
    titles = [f"N/d = {r:g}, {bits} bit{'s' * (bits > 1)}, order {o}" for r, bits, o in BOUNDED]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, network in (("784-512-512-10", mlp), ("residual", resnet)):
        reports = [
            network.compiled(
                CompileConfig(method="sigma-delta", bits=bits, redundancy=r, order=order), "images"
            )[1]
            for r, bits, order in BOUNDED
        ]
        for layers in zip(*(report.layers for report in reports), strict=True):
            if layers[0].status == "quantized":
                cells = [
                    f"{layer.weight_rel_error:.3f} ≤ {layer.weight_rel_bound:.3g} "
                    f"≤ {layer.variation_rel_bound:.3g}"
                    for layer in layers
                ]
                size = f"{name}, {layers[0].dim_in} × {layers[0].dim_out}"
                lines.append(f"| {size} | " + " | ".join(cells) + " |")
        cells = [
            f"{bound.error:.3g} ≤ {bound.bound:.3g} ≤ {bound.bound_by_frame:.3g}"
            for report in reports
            for bound in report.bounds
        ]
        lines.append(f"| {name}, logits | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def resnet_table(resnet: Network) -> str:
    runs = [
        *(("sigma-delta", bits, r, "none") for bits in (1, 2) for r in (2.0, 3.0, 4.0, 8.0)),
        *(("auto", bits, 1.0, "none") for bits in (2, 3, 4)),
        *(("auto", bits, 1.0, "images") for bits in (1, 2, 3, 4)),
        ("auto", 1, 2.0, "images"),
        ("gptq", 2, 1.0, "images"),
    ]
    lines = ["| method | bits | N/d | bits/weight | data | accuracy |", "|---|---|---|---|---|---|"]
    for method, bits, redundancy, data in runs:
        config = CompileConfig(bits=bits, redundancy=redundancy, method=method)
        accuracy, report = resnet.compiled(config, data)
        lines.append(
            f"| `{method}` | {bits} | {redundancy:g} | {report.model.bits_per_weight:.2f} "
            f"| {data} | {accuracy:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
