from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diff_reports import ATTACK, bare, layer, output, report
from fqonnx.diff import Advice, Histogram, Verdict
from fqonnx.diff_report import DiffReport
from fqonnx.html import to_html
from fqonnx.overrides import load_overrides
from fqonnx.report import ModelReport

_VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and texts by where they are.

    Attributes:
        elements: (tag, attributes) of each.
        texts: All text outside scripts and styles, one string for each section and the header.
        tables: Rows of cells, of all tables.
        scripts: Contents of scripts by their id, None for the one without.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.tables: list[list[str]] = []
        self.scripts: dict[str | None, str] = {}
        self._open: list[str] = []
        self._place: str | None = ""
        self.feed(html)
        self.close()
        assert self._open == []
        self.texts = {place: " ".join(text.split()) for place, text in self.texts.items()}
        self.tables = [[" ".join(cell.split()) for cell in row] for row in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in _VOID:
            self._open.append(tag)
        if tag in ("header", "section"):
            self._place = attributes.get("id", tag)
        elif tag == "script":
            self._place = attributes.get("id")
        elif tag == "tr":
            self.tables.append([])
        elif tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[self._place] = self.scripts.get(self._place, "") + data
        elif "style" not in self._open:
            self.texts[self._place] = self.texts.get(self._place, "") + data
            if "td" in self._open or "th" in self._open:
                self.tables[-1][-1] += data


def page(found: DiffReport) -> Page:
    return Page(to_html(found))


@functools.cache
def whole() -> str:
    """Return the page of a report in which everything is known."""
    return to_html(report())


def with_layers(*layers: Any, **changes: Any) -> DiffReport:
    return report(layers=list(layers), advice=[], compilation=None, **changes)


def test_the_verdict_comes_first() -> None:
    text = Page(whole()).texts["header"]
    missed = text.index("Missed 1 of 3 thresholds")
    needed = text.index("missed embedding: cosine is 0.852, would need ≥ 0.871")
    met = text.index("met embedding: max_abs_diff is 2.16, needs ≤ 3.0")
    size = text.index("90.87 MB → 12.31 MB")
    assert missed < needed < met < size < text.index("7.38 ×") < text.index("128 samples (file)")
    assert "Missed 1 of 3 thresholds – fqonnx diff" in whole()


def test_a_verdict_is_not_rounded_to_the_other_side() -> None:
    close = Verdict("y", "cosine", 0.9999999, 0.99999985, False)
    text = page(report(verdicts=[close])).texts["header"]
    assert "cosine is 0.99999985, would need ≥ 0.9999999" in text
    lost = Verdict("y", "cosine", 0.9, math.nan, False)
    assert "cosine is n/a, would need ≥ 0.9" in page(report(verdicts=[lost])).texts["header"]


def test_each_output_has_its_measures_and_what_of_it_is_noise() -> None:
    found = Page(whole())
    text = found.texts["outputs"]
    assert "embedding numbers 900 × the noise floor" in text
    assert "scores scores of classes 620 × the noise floor" in text
    assert "logits logits of the next token within the noise floor" in text
    assert found.tables.count(["", "float", "compiled", "noise floor"]) == 3
    assert ["cosine", "", "0.8520", "1.0000"] in found.tables
    assert ["accuracy", "81.25%", "79.70%", "79.70%"] in found.tables
    assert ["KL divergence, mean, nats", "", "0.2100", "0.0000"] in found.tables


def test_noise_is_not_guessed() -> None:
    text = page(report(noise=[])).texts
    assert "was not measured" in text["outputs"]
    assert "× the noise floor" not in text["outputs"] + text["split"]
    none = output("embedding", 0.0)
    equal = report(outputs=[none], noise=[none])
    assert "embedding numbers within the noise floor" in page(equal).texts["outputs"]
    above = report(outputs=[output("embedding", 0.1)], noise=[none])
    assert "∞ × the noise floor" in page(above).texts["outputs"]


def test_the_error_is_split_beside_the_total_and_the_noise_floor() -> None:
    rows = [row for row in Page(whole()).tables if len(row) == 7]
    titles = [" ".join(row[0].split()[:2]) for row in rows[1:6]]
    assert titles == ["algorithm the", "kernel exact", "provider CPU", "total float", "noise floor"]
    assert rows[0][1:] == [
        *("relative error", "cosine", "SQNR, dB", "max", "mean", "beside the noise floor")
    ]
    assert rows[2][1:] == ["1.20%", "0.9999", "38.42", "0.048", "0.006", "20 × the noise floor"]
    assert rows[3][6] == "within the noise floor"
    assert rows[4][1:3] == ["54.0%", "0.8520"]
    assert rows[5][6] == ""


def test_a_provider_that_was_not_there_is_said_to_be_missing() -> None:
    split = report().split
    assert split is not None
    assert "no CUDA was there" not in Page(whole()).texts["split"]
    text = page(report(split=dataclasses.replace(split, provider=[]))).texts["split"]
    assert "no CUDA was there" in text
    assert "provider" not in text


def test_the_table_has_the_worst_layer_first() -> None:
    found = report(12)
    shown = page(found)
    head, *rows = [row for row in shown.tables if len(row) == 13]
    assert head == [
        *("layer", "#", "alone", "accumulated", "local", "weight", "bound", "proxy loss", "bits"),
        *("in × out", "redundancy", "float → stored, kB", "frames"),
    ]
    assert len(rows) == 12
    alone = [float(row[2].rstrip("%")) for row in rows]
    assert alone == sorted(alone, reverse=True)
    worst = found.layers[int(rows[0][1]) - 1]
    assert rows[0][0] == f"{worst.name} 1"
    assert [row[0].split()[1:] for row in rows[:6]] == [["1"], ["2"], ["3"], ["4"], ["5"], []]
    assert rows[0][9] == f"{worst.dim_in} × {worst.dim_out}"
    assert rows[0][11] == f"{worst.float_bytes / 1e3:,.1f} → {worst.stored_bytes / 1e3:,.1f}"
    assert rows[0][12] == "hadamard"


def test_what_no_layer_has_is_no_column() -> None:
    assert "proxy loss" not in page(with_layers(layer())).texts["layers"]


def test_the_picture_is_drawn_in_the_colours_and_letters_of_the_page() -> None:
    html = whole()
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        for colour in ("local", "accumulated", "weight", "bad"):
            assert f"var(--{colour})" in picture
        assert not re.search(
            r"#[0-9a-f]{6}\b(?!\w)", re.sub(r"url\(.*?\)|href=\S+|id=\S+", "", picture)
        )
        assert ">layer, in graph order</text>" in picture
        assert "matplotlib" not in picture


def test_equal_reports_have_equal_pages() -> None:
    assert to_html(report()) == whole()


def test_histograms_are_data() -> None:
    found = report(3)
    histograms = json.loads(page(found).scripts["histograms"])
    assert len(histograms) == 3
    assert histograms[0]["edges"] == found.layers[0].histogram.edges
    assert histograms[0]["counts"] == found.layers[0].histogram.counts
    assert histograms[0]["levels"] == [-1.5, -0.5, 0.5, 1.5]
    assert sum(histograms[0]["shares"]) == pytest.approx(1.0, abs=1e-5)


def test_the_toml_raises_three_layers_to_four_bits(tmp_path: Path) -> None:
    found = report()
    shown = page(found)
    assert [found.advice[0].layer, "3", "+0.075", "−20.0%"] in shown.tables
    toml = re.search(r'<pre id="toml">(.*?)</pre>', to_html(found), re.DOTALL)
    assert toml is not None
    (tmp_path / "o.toml").write_text(toml[1].replace("&#34;", '"'))
    overrides = load_overrides(tmp_path / "o.toml")
    raised = [entry.layer for entry in found.advice if entry.bits == 4][:3]
    assert [(x.pattern, x.bits, x.redundancy) for x in overrides] == [(x, 4, None) for x in raised]
    assert "3 layers at 4 bits take " in shown.texts["advice"]


def test_without_layers_for_four_bits_there_is_nothing_to_paste() -> None:
    shown = page(report(advice=[Advice("a", 3, 1000, -0.01)]))
    assert ["a", "3", "+0.001", "−1.0%"] in shown.tables
    assert "overrides.toml" not in shown.texts["advice"]


def test_what_stayed_float_is_grouped_by_its_reason() -> None:
    text = Page(whole()).texts["kept"]
    both = text.index("2 × MatMul: both are activations attention.0/MatMul attention.1/MatMul")
    assert both < text.index("1 × Gemm: 10 weights, fewer than 256 head 5 × 2")


def test_the_record_is_whole() -> None:
    found = report()
    shown = page(found)
    for row in (
        ["compared on", "128 samples (file)"],
        ["their SHA-256", found.samples.digest],
        ["calibrated on", "84 samples (file)"],
        ["their SHA-256", "abcd" * 16],
        ["input that marks padding", "attention_mask"],
        *(list(item) for item in found.files.items()),
        ["machine", found.machine],
        ["compiled by", "fqonnx = 0.1.0, torch = 2.13.0"],
        ["seed", "7"],
        ["include", "none"],
        ["target_bits", "none"],
        ["overrides", "pattern = encoder.*, bits = 3, redundancy = none"],
    ):
        assert row in shown.tables
    for warning in (*found.warnings, "the samples are few"):
        assert warning in shown.texts["record"]
    assert found.slow[0] in shown.texts["slow"]


def test_what_is_not_known_is_said() -> None:
    shown = page(bare())
    assert "Float against compiled" in shown.texts["header"]
    assert "No threshold was given" in shown.texts["header"]
    assert "warnings" not in shown.texts["header"]
    for place, text in (
        (
            "outputs",
            "The noise floor, the float model in float16 against itself, was not measured.",
        ),
        ("split", "Not known: "),
        ("layers", "None was compared."),
        ("advice", "None: "),
        ("kept", "Not known: "),
        ("slow", "None was found."),
        ("record", "calibrated on"),
        ("record", "not recorded"),
    ):
        assert text in shown.texts[place]
    assert list(shown.scripts) == [None]


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = whole()
    for tag, attributes in Page(html).elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form", "image")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#") or value == "data:,"
            assert not name.startswith("on")
    named = set(re.findall(r"https?://[^\s\"'<>)]*", html))
    assert named == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) == {"#"}


def test_no_other_script_would_run() -> None:
    shown = Page(whole())
    (policy,) = [
        attributes["content"]
        for tag, attributes in shown.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(shown.scripts[None].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_ids_are_there_once_and_references_lead_somewhere() -> None:
    elements = Page(whole()).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        for name in ("href", "xlink:href", "clip-path", "for", "data-copy"):
            value = attributes.get(name) or ""
            if value and value != "data:,":
                assert re.sub(r"^url\(|[#)]", "", value) in ids


def attacked(value: Any) -> Any:
    """Return a report all of whose strings that come from a model or a file are an attack."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {"kind", "metric", "status"}
        return dataclasses.replace(
            value,
            **{
                field.name: attacked(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if field.name not in kept
            },
        )
    if isinstance(value, dict):
        return {f"{key}{ATTACK}": attacked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [attacked(item) for item in value]
    return f"{value}{ATTACK}" if isinstance(value, str) else value


def test_names_are_text() -> None:
    plain, shown = page(report(3)), page(attacked(report(3)))
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in plain.elements]
    assert list(shown.scripts) == list(plain.scripts)
    assert shown.scripts[None] == plain.scripts[None]
    for place in ("header", "outputs", "split", "layers", "advice", "kept", "slow", "record"):
        assert ATTACK in shown.texts[place]
    assert f'["{report(3).advice[1].layer}{ATTACK}"]' in shown.texts["advice"]


STRANGE = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-300, 1e300]


@pytest.mark.parametrize("value", STRANGE)
def test_no_number_breaks_the_page(value: float) -> None:
    def replaced(found: Any) -> Any:
        if dataclasses.is_dataclass(found) and not isinstance(found, type):
            fields = {x.name: getattr(found, x.name) for x in dataclasses.fields(found)}
            return dataclasses.replace(found, **{k: replaced(v) for k, v in fields.items()})
        if isinstance(found, list):
            return [replaced(item) for item in found]
        return value if isinstance(found, float) else found

    shown = page(replaced(report(6)))
    text = " ".join(shown.texts.values())
    assert not re.search(r"\b(nan|inf)\b", text)
    assert ("n/a" if math.isnan(value) else "∞" if math.isinf(value) else "0") in text
    json.loads(shown.scripts["histograms"], parse_constant=fails)
    for _, attributes in shown.elements:
        key = attributes.get("data-value", "")
        assert key == "" or key in ("Infinity", "-Infinity") or math.isfinite(float(key or ""))


def fails(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    "change",
    [
        lambda: with_layers(layer()),
        lambda: with_layers(layer(histogram=Histogram([], [], [], []))),
        lambda: with_layers(layer(model_rel_error=math.nan), layer(1)),
        lambda: report(model=ModelReport(0, 0)),
        lambda: report(outputs=[], noise=[], verdicts=[]),
    ],
)
def test_small_reports_have_a_page(change: Callable[[], DiffReport]) -> None:
    assert page(change()).texts["header"]


def test_layers_that_were_not_measured_come_last_and_are_not_the_worst() -> None:
    lost, worst, found = (
        layer(i, name=n, model_rel_error=e)
        for i, n, e in ((0, "lost", math.nan), (1, "worst", 0.5), (2, "found", 0.1))
    )
    names = [row[0] for row in page(with_layers(lost, found, worst)).tables if len(row) == 11]
    assert names == ["layer", "worst 1", "found 2", "lost"]


def test_five_hundred_layers_are_no_large_file() -> None:
    found = report(500)
    ragged = [i * 0.12345678901 for i in range(-32, 33)]
    layers = [
        dataclasses.replace(x, histogram=dataclasses.replace(x.histogram, edges=ragged))
        for x in found.layers
    ]
    assert len(to_html(dataclasses.replace(found, layers=layers)).encode()) < 1_500_000
