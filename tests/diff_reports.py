"""Reports of ``fqonnx diff`` that tests make up."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise
from typing import Any

from fqonnx.diff import Advice, Histogram, LayerDiff, OutputDiff, Verdict
from fqonnx.diff.classes import ClassDiff
from fqonnx.diff.tokens import TokenDiff
from fqonnx.diff_report import DiffReport, ErrorSplit, SamplesReport
from fqonnx.report import CalibrationReport, Compilation, LayerReport, ModelReport

ATTACK = "</script><script>alert(1)</script>"
_PARTS = (
    *(f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")),
    *("intermediate.dense", "output.dense"),
)


def output(name: str, error: float, **changes: Any) -> OutputDiff:
    """Return the measures of an output of this relative error."""
    sqnr_db = -20.0 * math.log10(error) if error else math.inf
    found = OutputDiff(
        name, 1 - error**2 / 2, sqnr_db, 4 * error, 6 * error, 128, error / 2, 2 * error
    )
    return dataclasses.replace(found, **changes)


def report(num_layers: int = 12, **changes: Any) -> DiffReport:
    """Return a report in which everything is known."""
    draw = random.Random(0)
    layers = [_layer(i, num_layers, draw) for i in range(num_layers)]
    worst = sorted(layers, key=lambda layer: -layer.model_rel_error)
    classes = ClassDiff(0.84, 0.99, 0.8125, 0.797)
    tokens = TokenDiff(0.21, 0.09, 0.52, 1.7, 0.127, 17.3, 21.9, 128, 16384)
    found = DiffReport(
        verdicts=[
            Verdict("embedding", "cosine", 0.871, 0.852, False),
            Verdict("embedding", "max_abs_diff", 3.0, 2.16, True),
            Verdict("scores", "top1_agreement", 0.8, 0.84, True),
        ],
        model=ModelReport(90_868_541, 12_310_777, 1.0, 2.0, 2.033),
        outputs=[
            output("embedding", 0.54, cosine=0.852),
            output("scores", 0.31, kind="classes", classes=classes),
            output("logits", 0.0004, kind="tokens", tokens=tokens),
        ],
        noise=[
            output("embedding", 0.0006),
            output("scores", 0.0005, classes=dataclasses.replace(classes, top1_agreement=1.0)),
            output("logits", 0.0007, tokens=dataclasses.replace(tokens, kl_mean=1e-5)),
        ],
        samples=SamplesReport("file", 128, "5d41402abc4b2a76b9719d911017c592" * 2),
        files={
            "models/minilm.onnx": "9f86d081884c7d659a2feaa0c55ad015" * 2,
            "models/minilm-2bit.onnx": "60303ae22b998861bce3b28f33eec1be" * 2,
        },
        versions={"python": "3.12.1", "fqonnx": "0.1.0", "onnxruntime": "1.31.1"},
        machine="Intel Xeon Platinum 8481C, AVX-512 VNNI",
        split=ErrorSplit(
            algorithm=[output("embedding", 0.538, cosine=0.853), output("scores", 0.309)],
            kernel=[output("embedding", 0.012), output("scores", 0.0004)],
            provider=[output("embedding", 0.0002), output("scores", 0.0001)],
        ),
        layers=layers,
        advice=[
            Advice(layer.name, bits, round(layer.stored_bytes * (bits - 2) / 2), -0.2 / rank)
            for rank, layer in enumerate(worst[:6], 1)
            for bits in (3, 4)
        ],
        slow=["encoder.layer.0.attention.self.key: 3 bits at one row, the library is slower"],
        compilation=_compilation(layers),
        warnings=["CUDA is not there: providers were not compared"],
    )
    return dataclasses.replace(found, **changes)


def bare(**changes: Any) -> DiffReport:
    """Return a report in which only what is always known is."""
    unknown = {"split": None, "compilation": None, "machine": ""}
    none = {name: [] for name in ("verdicts", "noise", "layers", "advice", "slow", "warnings")}
    return report(**(unknown | none | changes))


def layer(index: int = 0, **changes: Any) -> LayerDiff:
    """Return one of twelve layers."""
    return dataclasses.replace(_layer(index, 12, random.Random(index)), **changes)


def _layer(index: int, count: int, draw: random.Random) -> LayerDiff:
    bits = 3 if index % 7 == 3 else 2
    part = _PARTS[index % len(_PARTS)]
    dim_in = 1536 if part == "output.dense" else 384
    dim_out = 1536 if part == "intermediate.dense" else 384
    depth = index / max(count - 1, 1)
    weight = 0.34 if bits == 2 else 0.19
    return LayerDiff(
        name=f"encoder.layer.{index // len(_PARTS)}.{part}",
        output=f"value_{index}",
        dim_in=dim_in,
        dim_out=dim_out,
        bits=bits,
        codebook="scalar",
        frames=["hadamard"],
        redundancy=1.0 if index % 5 else 1.125,
        float_bytes=4 * dim_in * dim_out,
        stored_bytes=dim_in * dim_out * bits // 8 + 2 * dim_out,
        weight_rel_error=weight * draw.uniform(0.97, 1.03),
        local_rel_error=weight * draw.uniform(0.4, 0.9),
        accumulated_rel_error=(0.2 + 0.35 * depth) * draw.uniform(0.85, 1.15),
        model_rel_error=0.3 * draw.random() ** 4 * (1.2 - depth) + 0.02,
        histogram=_histogram(bits, dim_in * dim_out),
    )


def _histogram(bits: int, codes: int) -> Histogram:
    """Return that of Gaussian coefficients, rounded to a mid-rise alphabet."""
    step = 1.0 if bits == 2 else 0.586
    levels = [step * (i - (2**bits - 1) / 2) for i in range(2**bits)]
    edges = [-4 + i / 8 for i in range(65)]
    inner = [-math.inf, *(a + step / 2 for a in levels[:-1]), math.inf]
    return Histogram(edges, _counts(edges, codes), levels, _counts(inner, codes))


def _counts(edges: list[float], codes: int) -> list[int]:
    below = [0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges]
    return [round(codes * (b - a)) for a, b in pairwise(below)]


def _compilation(layers: list[LayerDiff]) -> Compilation:
    quantized = [
        LayerReport(
            *(x.name, "MatMul", x.dim_in, x.dim_out, "quantized"),
            weight_rel_bound=3 * x.weight_rel_error,
            proxy_loss=x.weight_rel_error * x.dim_in,
        )
        for x in layers
    ]
    kept = [("attention.0/MatMul", "MatMul", None, None, "float", "both are activations")]
    kept += [("attention.1/MatMul", "MatMul", None, None, "float", "both are activations")]
    kept += [("head", "Gemm", 5, 2, "float", "10 weights, fewer than 256")]
    return Compilation(
        layers=[*quantized, *(LayerReport(*node) for node in kept)],
        calibration=CalibrationReport("file", 84, 12, "held-back", "attention_mask", "abcd" * 16),
        versions={"fqonnx": "0.1.0", "torch": "2.13.0"},
        options={
            **{"bits": 2, "method": "auto", "seed": 7, "include": [], "target_bits": None},
            "overrides": [{"pattern": "encoder.*", "bits": 3, "redundancy": None}],
        },
        warnings=["the samples are few"],
    )
