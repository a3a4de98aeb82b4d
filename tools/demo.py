"""The main job on a real model: export, compile at 2 bits, run, compare.

    make demo

all-MiniLM-L6-v2 is exported from PyTorch, calibrated on sentences from the docstrings of Python's
standard library, compiled, and run by an unmodified ONNX Runtime on other sentences.
demo/report.html is the page of `fqonnx diff`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

import minilm
from bench import timing
from docstrings import sentences
from fqonnx.runtime_ops import library_path

CALIBRATION, EVALUATION = 256, 256
QUERIES = (
    "How do I read a compressed archive?",
    "Wait until all threads have finished.",
    "Compute the average of a list of numbers.",
    "Send a request to a web server.",
)
console = Console(highlight=False, emoji=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--bits", type=int, default=2)
    arguments = parser.parse_args()
    folder, bits = arguments.folder.resolve(), arguments.bits
    folder.mkdir(parents=True, exist_ok=True)
    float_path, compiled_path = folder / "minilm.onnx", folder / f"minilm-{bits}bit.onnx"

    texts = sentences()
    held_out = texts[CALIBRATION : CALIBRATION + EVALUATION]
    np.savez(folder / "calibration.npz", **minilm.tokenize(texts[:CALIBRATION]))

    run("export", "minilm:sentence_encoder", "-o", str(float_path))
    run(
        *("compile", str(float_path), "-o", str(compiled_path), "--bits", str(bits)),
        *("--calibration", str(folder / "calibration.npz")),
        *("--json", str(folder / "report.json"), "--report", str(folder / "report.html")),
        *("--fail-under", "cosine=0.85"),
    )
    console.rule("both models on sentences that calibration has not seen")
    paths = [float_path, compiled_path]
    embeddings = [embed(path, [*held_out, *QUERIES]) for path in paths]
    print_quality(embeddings)
    print_neighbours(embeddings, held_out)
    print_speed(*paths)


def run(*arguments: str) -> None:
    """Run the fqonnx command, shown as a user would type it."""
    shown = [Path(a).name if a.startswith("/") else a for a in arguments]
    console.print(f"[bold]$ fqonnx {shlex.join(shown)}[/]", soft_wrap=True)
    command = [str(Path(sys.executable).with_name("fqonnx")), *arguments]
    if subprocess.run(command, cwd=Path(__file__).parent).returncode > 1:  # 1: a threshold missed
        sys.exit("the command above failed")
    console.print()


def embed(path: Path, texts: list[str]) -> np.ndarray:
    """Return unit-norm embeddings (len(texts), 384)."""
    model = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = minilm.tokenize(texts)
    batches = range(0, len(texts), 32)
    parts = [model.run(None, {k: v[i : i + 32] for k, v in feed.items()})[0] for i in batches]
    return np.concatenate(parts)


def print_quality(embeddings: list[np.ndarray]) -> None:
    cosines = (embeddings[0] * embeddings[1]).sum(axis=1)
    console.print(
        f"cosine of {len(cosines)} sentence embeddings, float against compiled: "
        f"mean [bold]{cosines.mean():.4f}[/], lowest {cosines.min():.4f}\n"
    )


def print_neighbours(embeddings: list[np.ndarray], texts: list[str]) -> None:
    table = Table("query", "nearest, float", "nearest, compiled", show_lines=True)
    nearest, five = [], []
    for vectors in embeddings:
        corpus, queries = vectors[: len(texts)], vectors[len(texts) :]
        nearest.append([texts[i] for i in (queries @ corpus.T).argmax(axis=1)])
        scores = corpus @ corpus.T - 2 * np.eye(len(corpus))  # a sentence is not its own neighbour
        five.append(np.argsort(-scores)[:, :5])
    for row in zip(QUERIES, *nearest, strict=True):
        table.add_row(*row)
    console.print(table)
    same = sum(len(set(a) & set(b)) for a, b in zip(*five, strict=True)) / five[0].size
    console.print(f"of the five nearest neighbours of each sentence, {same:.0%} are the same\n")


def print_speed(float_path: Path, compiled_path: Path) -> None:
    threads = os.cpu_count() or 1
    sessions = {
        "float": timing.session(float_path, threads),
        "compiled": timing.session(compiled_path, threads),
    }
    if library_path() is not None:
        sessions["with the library"] = timing.session(compiled_path, threads, library=True)
    table = Table("speed", *sessions)
    for batch, length in ((1, 16), (1, 128), (16, 64)):
        ids = np.full((batch, length), 2000, np.int64)
        feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        times = timing.median_us(sessions, feed)
        cells = [f"{time / 1000:.1f} ms ({times['float'] / time:.2f}×)" for time in times.values()]
        table.add_row(f"{batch} × {length} tokens", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
