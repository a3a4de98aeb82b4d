"""Quality of 2-bit MiniLM by method, redundancy, bits and calibration: the table of the README.

    python tools/quality.py [--calibration-text FILE --evaluation-text FILE] [--readme README.md]

Without files the text is sentences from the docstrings of Python's standard library, which
everybody has. With files it is their lines of more than 80 characters, headings left out: the
README's table has 96 lines of WikiText-2's valid.txt for calibration and 128 of its test.txt.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import random
import resource
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

import docstrings
import minilm
from architectures.row import COSINE, run
from fqonnx import CompileConfig, compile_model
from fqonnx.config import Target
from fqonnx.export import export_model
from page import write_part

BEGIN, END = "<!-- quality table: tools/quality.py -->", "<!-- end of quality table -->"
REAL = "text"
STOCK: Target = "ort-stock"
RUNS = (
    ("`auto`, 2 bits", CompileConfig(), REAL),
    ("`auto`, 2 bits, redundancy 1.125", CompileConfig(redundancy=1.125), REAL),
    ("`auto`, 2 bits, redundancy 1.25", CompileConfig(redundancy=1.25), REAL),
    ("`auto`, target 2.035 bits", CompileConfig(target_bits=2.035), REAL),
    ("`auto`, target 2.285 bits", CompileConfig(target_bits=2.285), REAL),
    ("`auto`, target 2.535 bits", CompileConfig(target_bits=2.535), REAL),
    ("`auto`, 1 bit", CompileConfig(bits=1), REAL),
    ("`auto`, 3 bits", CompileConfig(bits=3), REAL),
    ("`auto`, 4 bits", CompileConfig(bits=4), REAL),
    ("`auto` for stock ONNX Runtime, 2 bits", CompileConfig(target=STOCK), REAL),
    (
        "`auto` for stock ONNX Runtime, 2 bits, redundancy 1.125",
        CompileConfig(target=STOCK, redundancy=1.125),
        REAL,
    ),
    (
        "`auto` for stock ONNX Runtime, target 2.283 bits",
        CompileConfig(target=STOCK, target_bits=2.283),
        REAL,
    ),
    ("`auto` for stock ONNX Runtime, 3 bits", CompileConfig(target=STOCK, bits=3), REAL),
    ("`auto`, 2 bits", CompileConfig(), "synthetic"),
    ("`auto`, 2 bits", CompileConfig(), "none"),
    ("`auto`, 2 bits, sequential", CompileConfig(sequential=True), REAL),
    ("`framequant`, 2 bits", CompileConfig(method="framequant"), REAL),
    (
        "`framequant`, 2 bits, redundancy 1.1",
        CompileConfig(method="framequant", redundancy=1.1),
        REAL,
    ),
    (
        "`framequant`, 2 bits, sequential",
        CompileConfig(method="framequant", sequential=True),
        REAL,
    ),
    ("`gptq` (no frame, groups of 128), 2 bits", CompileConfig(method="gptq"), REAL),
    ("`rtn` (no frame, groups of 128), 2 bits", CompileConfig(method="rtn"), "none"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calibration-text", type=Path)
    parser.add_argument("--evaluation-text", type=Path)
    parser.add_argument("--readme", type=Path, help="replace the table in this file")
    arguments = parser.parse_args()
    source, calibration, evaluation = texts(arguments.calibration_text, arguments.evaluation_text)
    table = "\n".join([header(source), "", *measure(calibration, evaluation)])
    print(table)
    if arguments.readme is not None:
        write_part(arguments.readme, BEGIN, END, table)


def texts(calibration: Path | None, evaluation: Path | None) -> tuple[str, list[str], list[str]]:
    if calibration is None or evaluation is None:
        sentences = docstrings.sentences()
        return "docstrings of Python's standard library", sentences[:96], sentences[96:224]
    source = f"{calibration.parent.name} ({calibration.name}, {evaluation.name})"
    return source, lines(calibration)[:96], lines(evaluation)[:128]


def lines(path: Path) -> list[str]:
    stripped = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    chosen = [line for line in stripped if len(line) > 80 and not line.startswith("=")]
    random.Random(0).shuffle(chosen)
    return chosen


def header(source: str) -> str:
    versions = f"torch {version('torch')}, ONNX Runtime {version('onnxruntime')}"
    return (
        "all-MiniLM-L6-v2, its 36 encoder layers. 96 lines for calibration (12 of them held "
        f"back), 128 others judged, {source}. "
        f"{platform.machine()}, {versions}, {datetime.date.today()}."
    )


def measure(calibration: list[str], evaluation: list[str]) -> list[str]:
    rows = [
        "| method | calibration | bits/weight | mean cosine of sentence embeddings | compile |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(prefix="fqonnx-quality-") as name:
        folder = Path(name)
        float_path, compiled_path = folder / "float.onnx", folder / "compiled.onnx"
        data = folder / "calibration.npz"
        np.savez(data, **minilm.tokenize(calibration))
        export_model(minilm.sentence_encoder(), float_path)
        feed = minilm.tokenize(evaluation)
        expected = run(float_path, feed)
        for title, config, source in RUNS:
            report = compile_model(
                float_path,
                compiled_path,
                config,
                calibration=data if source == REAL else source,
            )
            cosine = COSINE.score(run(compiled_path, feed), expected)
            rows.append(
                f"| {title} | {source} | {report.model.bits_per_weight:.3f} | {cosine:.3f} "
                f"| {report.timing['total_s']:.0f} s |"
            )
            print(rows[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [*rows, "", f"Peak memory of the whole run: {peak:.1f} GB."]


if __name__ == "__main__":
    main()
