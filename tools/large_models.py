"""Compile models that are larger than memory, and write docs/large-models.md from what it took.

Each model is generated (tools/decoder.py), compiled by the command line under a limit, compared
with the float one by it, and removed again. Rows of the page that are not measured again stay.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from decoder import SHAPES, write_decoder
from fqonnx.machine import processor

GIB = 1 << 30
SAMPLES, LENGTH = 16, 64
RUNS = (
    ("1b", "--bits 2 --calibration samples.npz"),
    ("7b", "--bits 2 --calibration none"),
)
PAGE = """# Models larger than memory

Compiled under a limit of {limit:g} GiB on memory of its own (`RLIMIT_DATA`: everything that is no
file), which a process that wants more does not get. Decoders like Llama in float16 with random
weights (`tools/decoder.py`). *Own memory* is the largest `RssAnon` that was seen, every 20 ms;
*with files* the largest resident set, in which the kernel counts pages of model files that it
takes back when it needs them. Calibration is {samples} samples of {length} tokens, a comparison
two or more.

{machine}, {versions}.

{head}
{rows}

    make large
"""
HEAD = """\
| model | weights | float file | options | compile | own memory | with files | compiled file | \
cosine | date |
|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds, bytes of its own and with the pages of files."""

    seconds: float
    own: int
    resident: int


def run_limited(command: list[str], limit: int) -> Usage:
    """Run a command that may have so many bytes of its own; stop if it fails."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start, own, resident = time.perf_counter(), 0, 0
    with subprocess.Popen(command, preexec_fn=restrict) as process:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                break
            found = {line.partition(":")[0]: line.split()[1] for line in lines if "kB" in line}
            own = max(own, int(found.get("RssAnon", 0)) << 10)
            resident = max(resident, int(found.get("VmHWM", 0)) << 10)
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Usage(time.perf_counter() - start, own, resident)


def measure(name: str, options: str, limit: int, place: Path) -> str:
    """Return the row of a model; ``samples.npz`` among the options is drawn."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
    try:
        model, compiled, report = (folder / f for f in ("model.onnx", "small.onnx", "report.json"))
        write_decoder(model, SHAPES[name])
        rng = np.random.default_rng(1)
        ids = rng.integers(0, SHAPES[name].vocabulary, (SAMPLES, LENGTH))
        np.savez(folder / "samples.npz", input_ids=ids)
        given = [str(folder / o) if o == "samples.npz" else o for o in options.split()]
        usage = run_limited(
            [
                str(Path(sys.executable).with_name("fqonnx")),
                *("compile", str(model), "-o", str(compiled)),
                *(*given, "--json", str(report)),
            ],
            limit,
        )
        found = json.loads(report.read_text())
        sizes, output = found["model"], found["outputs"][0]
        cells = [
            name.upper(),
            f"{sizes['float_bytes'] / 2e9:.2f} G",
            f"{sizes['float_bytes'] / 1e9:.2f} GB",
            f"`{options}`",
            f"{usage.seconds / 60:.1f} min",
            f"{usage.own / 1e9:.2f} GB",
            f"{usage.resident / 1e9:.2f} GB",
            f"{sizes['compiled_bytes'] / 1e9:.2f} GB",
            f"{output['cosine']:.3f}",
            str(datetime.date.today()),
        ]
        steps = ", ".join(f"{step} {seconds:.0f}" for step, seconds in found["timing"].items())
        print(f"{name}: {steps}", flush=True)
        return f"| {' | '.join(cells)} |"
    finally:
        shutil.rmtree(folder)


def rows_of(page: Path) -> dict[str, str]:
    """Return the rows that a page has, by model and options."""
    if not page.is_file():
        return {}
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    return {key_of(line): line for line in lines[2:]}


def key_of(row: str) -> str:
    cells = [cell.strip() for cell in row.split("|")]
    return f"{cells[1]} {cells[4]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(SHAPES)} [default: all runs]")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="place for 20 GB")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB")
    parser.add_argument("--options", help="of fqonnx compile, in the place of those of the runs")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.options is not None:
        runs = [(name, arguments.options) for name in arguments.models]
    else:
        runs = [run for run in RUNS if not arguments.models or run[0] in arguments.models]
    rows = {} if arguments.markdown is None else rows_of(arguments.markdown)
    for name, options in runs:
        row = measure(name, options, int(arguments.limit * GIB), arguments.folder)
        print(row, flush=True)
        rows[key_of(row)] = row
        if arguments.markdown is not None:
            text = PAGE.format(
                limit=arguments.limit,
                samples=SAMPLES,
                length=LENGTH,
                machine=processor(),
                versions=f"torch {version('torch')}, ONNX Runtime {version('onnxruntime')}",
                head=HEAD,
                rows="\n".join(rows[key] for key in sorted(rows)),
            )
            arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
