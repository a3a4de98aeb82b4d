import dataclasses
import math
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from fqonnx.diff import OutputDiff, Verdict
from fqonnx.diff.classes import ClassDiff
from fqonnx.diff_report import DiffReport, SamplesReport
from fqonnx.markdown import to_markdown, verdict_line
from fqonnx.report import ModelReport

OUTPUT = OutputDiff("y", 0.9, 12.0, 1.0, 2.0, 8, 0.25, 0.75)
MET = Verdict("y", "cosine", 0.85, 0.9, True)
MISSED = Verdict("y", "max_abs_diff", 0.5, 1.0, False)


def page(*verdicts: Verdict, **changes: object) -> str:
    report = DiffReport(
        verdicts=list(verdicts),
        model=ModelReport(4_000_000, 500_000),
        outputs=[OUTPUT],
        noise=[],
        samples=SamplesReport("file", 8, "abc"),
        files={"model.onnx": "def", "model-2bit.onnx": "ghi"},
        versions={"fqonnx": "1.0", "onnxruntime": "2.0"},
    )
    return to_markdown(dataclasses.replace(report, **changes))


def read(markdown: str) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return the blocks as (tag, text) and the rows of tables, as a reader sees them."""
    blocks, rows = [], []
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            assert {child.type for child in token.children or ()} <= {"text", "code_inline"}
            text = "".join(child.content for child in token.children or ())
            if before.tag in ("th", "td"):
                rows[-1].append(text)
            else:
                blocks.append((before.tag, text))
        assert not token.type.startswith("html")
    return blocks, rows


def test_the_verdict_comes_first() -> None:
    blocks, _ = read(page(MET, MISSED, MISSED))
    assert blocks[:4] == [
        ("h1", "Missed 2 of 3 thresholds"),
        ("p", "met: y: cosine is 0.9, ≥ 0.85"),
        *[("p", "missed: y: max_abs_diff is 1, the threshold is ≤ 0.5")] * 2,
    ]
    blocks, _ = read(page(MET))
    assert blocks[:2] == [("h1", "Met the threshold"), ("p", verdict_line(MET))]


def test_without_thresholds_there_is_no_verdict() -> None:
    markdown = page()
    blocks, _ = read(markdown)
    assert blocks[0] == ("h1", "Float against compiled")
    assert "hreshold" not in markdown
    assert blocks[1] == (
        "p",
        "4.00 MB to 0.50 MB, 8.0 times smaller. Compared on 8 samples (file).",
    )


def test_each_output_has_a_table() -> None:
    second = dataclasses.replace(
        OUTPUT, name="z", kind="classes", classes=ClassDiff(0.5, 1.0, 0.75, 0.5)
    )
    noise = dataclasses.replace(second, cosine=0.99999, classes=ClassDiff(1.0, 1.0, 0.75, 0.74))
    blocks, rows = read(page(outputs=[OUTPUT, second], noise=[noise]))
    assert [text for tag, text in blocks if tag == "h2"] == ["y (numbers)", "z (classes)"]
    assert {len(row) for row in rows[:-5]} == {4}
    assert rows.count(["", "float", "compiled", "noise floor (float16)"]) == 2
    assert ["cosine", "", "0.9000", ""] in rows
    assert ["cosine", "", "0.9000", "1.0000"] in rows
    assert ["accuracy", "75.00%", "50.00%", "74.00%"] in rows


def test_what_was_compared_comes_last() -> None:
    markdown = page()
    _, rows = read(markdown)
    assert rows[-4:] == [
        ["samples, SHA-256", "abc"],
        ["model.onnx, SHA-256", "def"],
        ["model-2bit.onnx, SHA-256", "ghi"],
        ["versions", "fqonnx 1.0, onnxruntime 2.0"],
    ]
    assert markdown.endswith("|\n")


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "a\\|b\\",
        "<script>alert(1)</script>",
        "`code` ``more``",
        "&lt;b&gt; &amp; &",
        "*a* _b_ **c** __d__ ~~e~~ ~f~ $x$ $$y$$",
        "[a](http://b) ![c](d) [e]: f <http://g> [^h]",
        "# a # ## @team",
        "/model/layer.0/Gemm_output_0",
        "- 1. > + = --- a",
        "größer 漢字",
    ],
)
def test_names_are_text(name: str) -> None:
    output = dataclasses.replace(OUTPUT, name=name)
    verdict = dataclasses.replace(MISSED, output=name)
    blocks, rows = read(page(verdict, outputs=[output], files={name: "def"}))
    assert blocks[1] == ("p", verdict_line(verdict))
    assert ("h2", f"{name} (numbers)") in blocks
    assert [f"{name}, SHA-256", "def"] in rows
    assert len(rows) == 10


def test_names_stay_on_their_line() -> None:
    name = "a\n\n# b\r\n| c |\u2028d\te"
    output = dataclasses.replace(OUTPUT, name=name)
    verdict = dataclasses.replace(MISSED, output=name)
    blocks, rows = read(page(verdict, outputs=[output], files={name: "def"}))
    shown = "a # b | c | d e"
    assert blocks[1][1].startswith(f"missed: {shown}: ")
    assert ("h2", f"{shown} (numbers)") in blocks
    assert [f"{shown}, SHA-256", "def"] in rows


def test_mentions_and_mathematics_are_escaped() -> None:
    markdown = page(outputs=[dataclasses.replace(OUTPUT, name="@team $x$ #1")])
    assert r"## \@team \$x\$ \#1 (numbers)" in markdown


def test_verdicts_in_words() -> None:
    assert verdict_line(MET) == "met: y: cosine is 0.9, ≥ 0.85"
    assert verdict_line(MISSED) == "missed: y: max_abs_diff is 1, the threshold is ≤ 0.5"
    lost = dataclasses.replace(MET, found=math.nan, met=False)
    assert verdict_line(lost) == "missed: y: cosine is nan, the threshold is ≥ 0.85"
    close = Verdict("y", "cosine", 0.99999, 0.999985, False)
    assert verdict_line(close) == "missed: y: cosine is 0.999985, the threshold is ≥ 0.99999"
    close = Verdict("y", "cosine", 0.9999999, 0.99999985, False)
    assert verdict_line(close) == "missed: y: cosine is 0.99999985, the threshold is ≥ 0.9999999"
