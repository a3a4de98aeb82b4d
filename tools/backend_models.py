"""Every model of ONNX's own backend tests is compiled: the page docs/backend.md.

    python tools/backend_models.py [--every N] [--markdown FILE]

The models come with the onnx package: one for each operator and option, small networks that PyTorch
exported, and large ones with constant weights. An unmodified ONNX Runtime says which of them it
runs on their own data. Those must compile, to the same bits where nothing is quantized.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import DATA_DIR

from fqonnx import CompileConfig, compile_model
from fqonnx.errors import FqonnxError, first_line
from fqonnx.model_file import MIN_OPSET
from fqonnx.session import Session, num_samples
from predicted_error import run, same, too_far

GROUPS = ("node", "simple", "pytorch-operator", "pytorch-converted", "light")
OPSET = 21  # that older models are converted to
SAME, CLOSE, WRONG = "the same bits", "within the predicted error", "wrong"
REFUSED = ("does not run", "takes no numbers", "no use", "not converted", "no standard opset")

PAGE = """\
# The models of ONNX's backend tests

The onnx package brings models that test a runtime: one for each operator and option, small networks
exported from PyTorch, and large ones, whose weights nodes make while they run, so that none is
quantized. Each is compiled with `--bits 4`, calibrated on its own test data, and runs on them.
Models of an opset below {min_opset} are converted to {opset} before.

{table}

- **the same bits**: no layer was quantized, and no bit of an output has changed.
- **within the predicted error**: layers were quantized, and every output is as near as noise of the
  size that the report gives for the weights allows (`tools/predicted_error.py`).
- **takes no numbers**: an input is of strings, sequences, optionals, or of a type without a number
  of NumPy's own, such as float8.
- **does not run**: ONNX Runtime does not run the float model on its own data.
- **no use**: the test data have NaN, infinities or no rows, and nothing can be calibrated on them.
- **not converted**: onnx.version_converter does not take it; **no standard opset**: the model
  imports no version of the standard operators.

A refusal is one line that says so. Anything else would be **wrong**.

    make backend

onnx {onnx}, ONNX Runtime {ort}, {date}.
"""


@dataclass(frozen=True)
class Case:
    """A model with the inputs of its first test; those that are no arrays are as they come."""

    group: str
    name: str
    model: onnx.ModelProto
    inputs: list[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th model")
    parser.add_argument("--markdown", type=Path, help="write the page")
    arguments = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    for group in GROUPS:
        for case in islice(cases(group), 0, None, arguments.every):
            outcome, why = judge(case)
            counts[group, outcome] += 1
            if outcome == WRONG:
                print(f"{group} {case.name}: {why}", flush=True)
    table = "\n".join(rows(counts))
    print(table)
    if arguments.markdown is not None:
        arguments.markdown.write_text(
            PAGE.format(
                table=table,
                min_opset=MIN_OPSET,
                opset=OPSET,
                onnx=version("onnx"),
                ort=version("onnxruntime"),
                date=datetime.date.today(),
            ),
            encoding="utf-8",
        )


def cases(group: str) -> Iterator[Case]:
    """Yield the models of a group."""
    if group == "node":
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # their reference implementations divide by zero
            found = {test.name: test for test in collect_testcases(None)}
        for test in found.values():
            inputs = [_array(value) for value in test.data_sets[0][0]]
            yield Case(group, test.name, test.model, inputs)
        return
    for path in sorted(Path(DATA_DIR, group).rglob("*.onnx")):
        model = onnx.load(path)
        if group == "light":  # whose data are random images
            yield Case(group, path.stem, model, _drawn(model))
        else:
            files = path.parent.glob("test_data_set_0/input_*.pb")
            ordered = sorted(files, key=lambda file: int(file.stem.split("_")[1]))
            yield Case(group, path.parent.name, model, [_read(file) for file in ordered])


def judge(case: Case, lowering: str | None = None) -> tuple[str, str]:
    """Compile a model and run both.

    Returns:
        `SAME`, `CLOSE`, one of `REFUSED`, or `WRONG`; and what was found.
    """
    model = case.model
    opset = next((o.version for o in model.opset_import if o.domain == ""), None)
    if opset is not None and opset < MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            return "not converted", first_line(error)
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    feed = dict(zip(names, case.inputs, strict=False))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, out = folder / "model.onnx", folder / "compiled.onnx"
        onnx.save(model, path)
        expected = _refusal(path, feed, opset)
        data = _write(folder / "test_data_set_0", feed) if not expected and feed else "none"
        config = CompileConfig(bits=4, lowering=lowering)
        try:
            report = compile_model(path, out, config, calibration=data)
            if expected is not None:
                return expected, "compiled on synthetic inputs"
            found = Session(out, "compiled").run(feed)
        except FqonnxError as error:
            return expected or WRONG, str(error)
        except Exception as error:  # what this looks for
            return WRONG, f"{type(error).__name__}: {first_line(error)}"
    first, again = run(model, feed), run(model, feed)
    if any(layer.status == "quantized" for layer in report.layers):
        fault = too_far(model, feed, found, report)
        return (CLOSE, "") if fault is None else (WRONG, fault)
    if all(map(same, first, found)):
        return SAME, ""
    random = not all(map(same, first, again))
    return (SAME, "it draws random numbers") if random else (WRONG, "other bits")


def rows(counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the table."""
    lines = [f"| | models | {' | '.join(outcomes := (SAME, CLOSE, *REFUSED, WRONG))} |"]
    lines.append("|---" * (len(outcomes) + 2) + "|")
    for group in GROUPS:
        numbers = [counts.get((group, outcome), 0) for outcome in outcomes]
        lines.append(f"| {group} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    return lines


def _refusal(path: Path, feed: dict[str, Any], opset: int | None) -> str | None:
    """Return why a model cannot be compiled on its data, by ONNX Runtime and the data alone."""
    if opset is None:
        return "no standard opset"
    try:
        session = Session(path, "model")
    except FqonnxError:
        return "does not run"
    try:
        session.inputs  # noqa: B018
    except FqonnxError:
        return "takes no numbers"
    try:
        session.run(feed)
    except FqonnxError:
        return "does not run"
    if not all(np.isfinite(array).all() for array in feed.values()) or num_samples(feed) == 0:
        return "no use"
    return None


def _drawn(model: onnx.ModelProto) -> list[NDArray[Any]]:
    """Return a random array for the input that is no constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    (image,) = [value for value in model.graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    return [np.random.default_rng(0).standard_normal(shape).astype(np.float32)]


def _read(path: Path) -> Any:
    try:
        return _array(onnx.TensorProto.FromString(path.read_bytes()))
    except google.protobuf.message.DecodeError:
        return None  # of a sequence or an optional


def _array(value: Any) -> Any:
    if not isinstance(value, onnx.TensorProto):
        return value
    try:
        return onnx.numpy_helper.to_array(value)
    except (ValueError, TypeError):
        return None


def _write(folder: Path, feed: dict[str, NDArray[Any]]) -> Path:
    folder.mkdir()
    for number, (name, array) in enumerate(feed.items()):
        tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
        (folder / f"input_{number}.pb").write_bytes(tensor.SerializeToString())
    return folder


if __name__ == "__main__":
    main()
