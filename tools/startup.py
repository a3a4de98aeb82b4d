"""Start-up and memory of MiniLM, float against compiled: each in a process of its own, in turns.

python tools/startup.py [--markdown docs/deployment.md]
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import minilm
from fqonnx import CompileConfig, compile_model
from fqonnx.export import export_model
from fqonnx.machine import processor
from fqonnx.native import library_path
from fqonnx.probe import UNFOLDED, Outcome, Request, probe
from page import write_part

BEGIN, END = "<!-- start-up table: tools/startup.py -->", "<!-- end of start-up table -->"
TURNS = 5
HEAD = (
    "| model | way | weights | make a session, ms | first run, ms | later runs, ms "
    "| peak memory, MB | own memory after, MB | mapped, MB |\n|---|---|---|---|---|---|---|---|---|"
)


def ways(folder: Path) -> dict[tuple[str, str, str], Request]:
    """Write the models; return what to run, by model, way and place of the weights."""
    plain = folder / "float.onnx"
    export_model(minilm.sentence_encoder(), plain)
    paths = {"float32": plain}
    for codebook in ("scalar", "trellis"):
        paths[f"2 bits, {codebook}"] = folder / f"{codebook}.onnx"
        config = CompileConfig(codebook=codebook)
        compile_model(plain, folder / f"{codebook}.onnx", config, calibration="none")
    found = {}
    for name, path in paths.items():
        mapped = path.with_suffix(".mapped.onnx")
        ir.save(ir.load(path), mapped, external_data=f"{mapped.name}.data")
        for place, model in (("inside", path), ("beside", mapped)):
            request = Request(str(model))
            way = "" if name == "float32" else "bodies"
            found[name, way, place] = request
            if name.endswith("trellis"):
                found[name, "bodies, kept packed", place] = replace(
                    request, session_config=UNFOLDED
                )
            if name != "float32" and library_path() is not None:
                found[name, "library", place] = replace(request, library=str(library_path()))
    return found


def row(names: tuple[str, str, str], outcomes: list[Outcome], plain: list[Outcome]) -> str:
    """Return a row of medians; in brackets, times the float model with its weights inside."""

    def cell(name: str, unit: float, digits: int = 0) -> str:
        value, base = (np.median([getattr(o, name) for o in of]) for of in (outcomes, plain))
        ratio = "" if outcomes is plain else f" ({value / base:.2f}×)"
        return f"{value / unit:.{digits}f}{ratio}"

    times = [cell(name, 1e-3, 1) for name in ("load_s", "first_run_s", "run_s")]
    memory = [cell("peak_bytes", 1e6), cell("private_bytes", 1e6)]
    mapped = f"{np.median([o.mapped_bytes for o in outcomes]) / 1e6:.0f}"
    return "| " + " | ".join([*names, *times, *memory, mapped]) + " |"


def table() -> str:
    with tempfile.TemporaryDirectory(prefix="fqonnx-startup-") as name:
        found = ways(Path(name))
        ids = np.random.default_rng(0).integers(1000, 2000, (4, 64))
        feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        outcomes: dict[tuple[str, str, str], list[Outcome]] = {names: [] for names in found}
        for _ in range(TURNS):
            for names, request in found.items():
                outcomes[names].append(probe(request, feed))
    plain = outcomes["float32", "", "inside"]
    said = (
        f"all-MiniLM-L6-v2, 4 sentences of 64 tokens, medians of {TURNS} processes, in brackets "
        f"times float32 with its weights inside. {processor()}, ONNX Runtime {ort.__version__}, "
        f"{datetime.date.today()}."
    )
    rows = [row(names, outcomes[names], plain) for names in found]
    return "\n".join([said, "", HEAD, *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="put the table into this page, in its place")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.markdown is not None:
        write_part(arguments.markdown, BEGIN, END, text)


if __name__ == "__main__":
    main()
