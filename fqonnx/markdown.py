"""The report of ``fqonnx diff`` as Markdown, for a pipeline's summary page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fqonnx.diff.rows import LAYER_HEAD, advice_line, layer_rows, rows, split_line
from fqonnx.diff.thresholds import FLOORS, Threshold, Verdict
from fqonnx.diff_report import DiffReport


def to_markdown(report: DiffReport) -> str:
    """Return a page: the verdict first, then the measures of each output."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: DiffReport) -> Iterator[str]:
    model, samples = report.model, report.samples
    yield from (f"# {headline(report.verdicts)}", "")
    if report.verdicts:
        yield from (f"- {_text(verdict_line(verdict))}" for verdict in report.verdicts)
        yield ""
    ratio = model.float_bytes / model.compiled_bytes
    yield (
        f"{model.float_bytes / 1e6:.2f} MB to {model.compiled_bytes / 1e6:.2f} MB, {ratio:.1f} "
        f"times smaller. Compared on {samples.num_samples} samples ({samples.source})."
    )
    noise = {output.name: output for output in report.noise}
    for output in report.outputs:
        yield from ("", f"## {_text(output.name)} ({output.kind})", "")
        yield from _table(
            ("", "float", "compiled", "noise floor (float16)"),
            [
                (row.title, row.float_value, row.compiled, row.noise)
                for row in rows(output, noise.get(output.name))
            ],
        )
    if report.split is not None:
        yield ""
        for weights, kernels in zip(report.split.algorithm, report.split.kernel, strict=True):
            yield f"- {_text(split_line(weights.name, weights, kernels))}"
    if report.layers:
        yield ""
        yield from _table(LAYER_HEAD, layer_rows(report.layers))
    if report.advice:
        yield ""
        yield from (f"- {_text(advice_line(advice))}" for advice in report.advice[:6])
    yield from ("", "| | |", "|---|---|")
    for name, digest in (("samples", samples.digest), *report.files.items()):
        yield f"| {_text(name)}, SHA-256 | `{digest}` |"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"| versions | {versions} |"


def headline(verdicts: Sequence[Verdict]) -> str:
    """Return what became of all thresholds in a few words."""
    if not verdicts:
        return "Float against compiled"
    missed, total = sum(not verdict.met for verdict in verdicts), len(verdicts)
    if total == 1:
        return f"{'Missed' if missed else 'Met'} the threshold"
    return f"Missed {missed} of {total} thresholds" if missed else f"Met all {total} thresholds"


def verdict_line(verdict: Verdict) -> str:
    """Return what became of a threshold in words."""
    found = f"{verdict.output}: {verdict.metric} is {found_text(verdict)}"
    if verdict.met:
        return f"met: {found}, {needed_text(verdict)}"
    return f"missed: {found}, the threshold is {needed_text(verdict)}"


def found_text(verdict: Verdict) -> str:
    """Return the measure, rounded unless that would be on the other side of the threshold."""
    shown = f"{verdict.found:.4g}"
    admitted = Threshold(verdict.metric, verdict.threshold).admits(float(shown))
    return shown if admitted == verdict.met else repr(verdict.found)


def needed_text(verdict: Verdict) -> str:
    """Return what the measure may be."""
    return f"{'≥' if verdict.metric in FLOORS else '≤'} {verdict.threshold}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for cells in body:
        yield "| " + " | ".join(map(_text, cells)) + " |"


def _text(value: str) -> str:
    """Return a name as text: it may hold what Markdown or HTML reads."""
    return re.sub(r"[\\`*_{}\[\]<>|#~$&@]", r"\\\g<0>", " ".join(value.split()))
