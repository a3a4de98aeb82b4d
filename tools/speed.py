"""Speed of layers and of a model: float32 against FrameMatMul, by its body and by our library.

python tools/speed.py [--markdown docs/speed.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

import minilm
from bench.layers import (
    float_model,
    frame_model,
    merged_model,
    product_model,
    trellis_model,
    trivial_model,
)
from bench.timing import median_us, session
from fqonnx import CompileConfig, compile_model
from fqonnx.export import export_model
from fqonnx.machine import processor

PAGE = """\
# Speed

## One layer

One linear layer in ONNX Runtime: float32 `MatMul` against `FrameMatMul`, frame transform included,
by its function body (no library of ours: `MatMulNBits` with int8 activations and a half-step term)
and by our native library, fast (activations rounded to int8) and exact (24 bits). The models of a
row run in one process, in turns; times are medians in µs, and in brackets stands how many times
faster than float32 that is.

"of which transform" is frame transform and rounding to int8: the time of the 2-bit layer with 16
outputs, less that of a model that does next to nothing. The last two columns are ONNX Runtime's own
`MatMulNBits` without a frame. At few rows float32 waits for memory, and its time is the memory
bandwidth that the machine has at that moment: on a shared one the ratio at one row moves by a third
from run to run, while the times of the packed layers hardly do. The packed weights of this
benchmark fit into the last-level cache, the float32 ones of the larger shapes do not.

Trellis codes (docs/trellis.md) take more work than scalar ones: a window of the stream, a product
and a look-up for each coefficient. Rows of a tile are lanes of four columns. With AVX-512 VBMI,
windows are bytes from any bit of four words, and one register holds all levels: 32 instructions
for the 256 coefficients of a tile, and four more to multiply them. At few rows of x that is done
where the codes lie, and the processor rather than memory sets the time; at more it is done once
for up to 192 rows, into the panels in which scalar codes are multiplied too. AVX2 finds windows by
byte shuffles and products with powers of two, and levels by four shuffles.

    make bench

"""
MERGED = """
## Layers of one input

Layers that read one input (query, key and value; gate and up) become one `FrameMatMul` of several
outputs. Here is what that saves: time in µs for all of them at 2 bits as nodes of their own and as
one node, in brackets how many times faster that is.

| layers | rows of x | body, several | body, one | library, several | library, one |
|---|---|---|---|---|---|
"""
MODEL = """
## A model

all-MiniLM-L6-v2 (six layers of width 384), 2 bits, in ms, and in brackets how many times faster
than float32 that is. The rest of it, attention and norms, is the same in all. Trellis codes by
their body are products with unpacked weights.

| sentences × tokens | float32 | scalar, body | scalar, library | trellis, body | trellis, library |
|---|---|---|---|---|---|
"""
SHARED = ((3, 384, 384), (3, 768, 768), (3, 4096, 4096), (2, 4096, 11008))  # how many of a size
SHAPES = ((4096, 4096), (4096, 11008), (11008, 4096), (768, 3072))
BATCHES = (1, 4, 16, 64, 256)
BITS = (2, 3, 4)
MERGED_BATCHES = (1, 16, 128)
TRANSFORM, NOTHING = "of which transform", "nothing"
FEEDS = ((1, 16), (1, 128), (16, 64))  # sentences, tokens


def table(threads: int) -> str:
    lines = [
        f"{processor()}, {threads} threads, ONNX Runtime {ort.__version__}, "
        f"{datetime.date.today()}:",
        "",
    ]
    for dim_in, dim_out in SHAPES:
        sessions = candidates(dim_in, dim_out, threads)
        names = [name for name in sessions if name not in ("float32", NOTHING)]
        if len(lines) == 2:
            lines.append("| dim_in × dim_out | rows of x | float32 | " + " | ".join(names) + " |")
            lines.append("|---|---|---|" + "---|" * len(names))
        for rows in BATCHES:
            x = np.random.default_rng(1).standard_normal((rows, dim_in), np.float32)
            times = median_us(sessions, {"x": x})
            cells = [cell(name, times) for name in names]
            row = [f"{dim_in} × {dim_out}", str(rows), f"{times['float32']:.0f}", *cells]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def cell(name: str, times: dict[str, float]) -> str:
    if name == TRANSFORM:
        return f"{times[name] - times[NOTHING]:.1f}"
    return f"{times[name]:.0f} ({times['float32'] / times[name]:.1f}×)"


def merged_table(threads: int) -> str:
    lines = []
    for layers, dim_in, dim_out in SHARED:
        several = frame_model(dim_in, dim_out, 2, layers=layers)
        one = merged_model(dim_in, dim_out, 2, layers)
        sessions = {
            f"{kind}, {name}": session(content, threads, library=kind == "library")
            for kind in ("body", "library")
            for name, content in (("several", several), ("one", one))
        }
        for rows in MERGED_BATCHES:
            x = np.random.default_rng(1).standard_normal((rows, dim_in), np.float32)
            times = median_us(sessions, {"x": x})
            row = [f"{layers} of {dim_in} × {dim_out}", str(rows)]
            for kind in ("body", "library"):
                slow, fast = times[f"{kind}, several"], times[f"{kind}, one"]
                row += [f"{slow:.0f}", f"{fast:.0f} ({slow / fast:.2f}×)"]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def model_table(threads: int) -> str:
    lines = []
    with tempfile.TemporaryDirectory(prefix="fqonnx-speed-") as name:
        plain, trellis, scalar = (Path(name) / f"{n}.onnx" for n in ("float", "trellis", "scalar"))
        export_model(minilm.sentence_encoder(), plain)
        for path, codebook in ((trellis, "trellis"), (scalar, "scalar")):
            compile_model(plain, path, CompileConfig(codebook=codebook), calibration="none")
        sessions = {
            "float32": session(plain, threads),
            "scalar": session(scalar, threads),
            "scalar, library": session(scalar, threads, library=True),
            "trellis": session(trellis, threads),
            "trellis, library": session(trellis, threads, library=True),
        }
    for sentences, tokens in FEEDS:
        ids = np.random.default_rng(0).integers(1000, 2000, (sentences, tokens))
        feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        times = median_us(sessions, feed)
        cells = [
            f"{times[n] / 1000:.1f} ({times['float32'] / times[n]:.1f}×)"
            for n in sessions
            if n != "float32"
        ]
        row = [f"{sentences} × {tokens}", f"{times['float32'] / 1000:.1f}", *cells]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def candidates(dim_in: int, dim_out: int, threads: int) -> dict[str, ort.InferenceSession]:
    """Return the sessions to compare, float32 first."""
    found = {
        "float32": session(float_model(dim_in, dim_out), threads),
        "body, 2-bit": session(frame_model(dim_in, dim_out, 2), threads),
    }
    for bits in BITS:
        layer = frame_model(dim_in, dim_out, bits)
        found[f"library, {bits}-bit"] = session(layer, threads, library=True)
    exact = frame_model(dim_in, dim_out, 2, contrib=False)
    found["library, 2-bit exact"] = session(exact, threads, library=True)
    for bits in BITS:
        layer = trellis_model(dim_in, dim_out, bits)
        found[f"library, {bits}-bit trellis"] = session(layer, threads, library=True)
    found[NOTHING] = session(trivial_model(dim_in), threads)
    found[TRANSFORM] = session(frame_model(dim_in, 16, 2), threads, library=True)
    for bits in (2, 4):
        product = product_model(dim_in, dim_out, bits)
        found[f"MatMulNBits, {bits}-bit"] = session(product, threads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    threads = arguments.threads
    text = PAGE + table(threads)
    text += MERGED + merged_table(threads) + MODEL + model_table(threads)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
