from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fqonnx import METHODS
from fqonnx.plot import DPI, MAX_ANNOTATED, SIZE_INCHES, sweep_png
from fqonnx.sweep import SweepRow


def row(method: str = "auto", bits: int = 2, redundancy: float = 1.0, **other: float) -> SweepRow:
    stored = bits * redundancy
    values = {"cosine": 1 - 1 / (1 + stored**2), "sqnr_db": 5 * stored - 4, **other}
    return SweepRow(
        method,
        bits,
        redundancy,
        redundancy,
        stored,
        "y",
        values["cosine"],
        values["sqnr_db"],
        0.5,
        100,
        1.0,
    )


MANY = [row(m, b, 1 + i / 8) for m in METHODS for b in (1, 2, 3, 4) for i in range(4)]


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(), row(redundancy=1.125)],
        [row(), row(), row()],
        MANY[:MAX_ANNOTATED],
        MANY,
        [row(sqnr_db=math.inf, cosine=1.0), row(redundancy=1.5)],
        [row(sqnr_db=-math.inf, cosine=math.nan)],
    ],
)
def test_is_a_png_of_its_size(rows: list[SweepRow]) -> None:
    png = sweep_png(rows, "model.onnx")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    size = struct.unpack(">II", png[16:24])
    assert size == tuple(round(inches * DPI) for inches in SIZE_INCHES)


def test_names_are_no_mathematics() -> None:
    assert sweep_png([row()], r"a$\nonsense$_b.onnx") != sweep_png([row()], "other.onnx")


def test_order_of_the_rows_does_not_matter() -> None:
    rows = MANY[4:12]
    assert sweep_png(rows, "m") == sweep_png(rows[::-1], "m")


def test_no_command_waits_for_matplotlib_before_there_is_something_to_draw(tmp_path: Path) -> None:
    code = "import sys, fqonnx.cli; sys.exit('matplotlib' in sys.modules)"
    # Not from the root of the repository, whose bare folders would be found first.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
