from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fqonnx import ExportError
from fqonnx.export import ExportSource, export_model
from fqonnx.session import Session


class Tagger(torch.nn.Module):
    """Has an inner value that torch's exporter calls `embedding`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 32)
        self.linear = torch.nn.Linear(32, 32)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.embedding(ids)
        return self.linear(found), found.sum(1)


def tagger() -> ExportSource:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    return ExportSource(
        Tagger().eval(),
        (torch.randint(0, 50, (2, 7)),),
        input_names=["ids"],
        output_names=["tags", "embedding"],
        dynamic_shapes=(axes,),
    )


def test_exported_model_computes_what_torch_does(tmp_path: Path) -> None:
    source, path = tagger(), tmp_path / "m.onnx"
    assert export_model(source, path) < 1e-5
    ids = torch.randint(0, 50, (5, 3))  # not the exported shape
    found = Session(path, "m").run({"ids": ids.numpy()})
    with torch.no_grad():
        expected = source.module(ids)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5)


def test_output_named_like_an_inner_value(tmp_path: Path) -> None:
    export_model(tagger(), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert [output.name for output in model.graph.output] == ["tags", "embedding"]
    onnx.checker.check_model(model, full_check=True)


def test_file_says_nothing_of_the_exporting_machine(tmp_path: Path) -> None:
    export_model(tagger(), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parent).encode() not in content


def test_module_factory_and_pt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "def plain():\n"
        "    return torch.nn.Linear(8, 4), (torch.ones(2, 8),)\n"
        "def wrong():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    export_model("my_models:plain", "plain.onnx")
    assert Path("plain.onnx").is_file()
    with pytest.raises(ExportError, match="returned int, expected"):
        export_model("my_models:wrong", "wrong.onnx")
    with pytest.raises(ExportError, match="has no function 'absent'"):
        export_model("my_models:absent", "absent.onnx")

    source = tagger()
    program = torch.export.export(source.module, source.args, dynamic_shapes=source.dynamic_shapes)
    torch.export.save(program, "tagger.pt2")
    assert export_model("tagger.pt2", "tagger.onnx") < 1e-5


def test_unreadable_pt2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.pt2"
    with pytest.raises(ExportError, match="no such file"):
        export_model(str(path), tmp_path / "m.onnx")
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"it is no \.pt2 file"):
        export_model(str(path), tmp_path / "m.onnx")
    assert capfd.readouterr().err == ""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"content")
    with pytest.raises(ExportError, match="not readable as an exported program"):
        export_model(str(path), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_wrong_number_of_output_names(tmp_path: Path) -> None:
    source = ExportSource(torch.nn.Linear(4, 4), (torch.ones(1, 4),), output_names=["a", "b"])
    with pytest.raises(ExportError, match="2 output names for 1 outputs"):
        export_model(source, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


class Unexportable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(np.random.default_rng().random(int(x.sum())).sum())


def test_torch_failure_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not export it"):
        export_model(ExportSource(Unexportable(), (torch.ones(3),)), tmp_path / "m.onnx")


class Noisy(torch.nn.Module):
    """Computes another thing in Python than in the exported graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1.0 if torch.compiler.is_exporting() else x


def test_file_that_differs_from_torch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from PyTorch's"):
        export_model(ExportSource(Noisy(), (torch.ones(3),)), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


class WithKeywords(torch.nn.Module):
    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return x * scale


def test_keyword_inputs(tmp_path: Path) -> None:
    source = ExportSource(WithKeywords(), (torch.ones(3),), kwargs={"scale": torch.full((3,), 2.0)})
    assert export_model(source, tmp_path / "m.onnx") == 0.0


@pytest.mark.parametrize("names", [["x"], ["y", "y"]])
def test_output_name_that_is_taken(names: list[str], tmp_path: Path) -> None:
    module = torch.nn.Linear(4, 4) if len(names) == 1 else Tagger()
    args = (torch.ones(1, 4),) if len(names) == 1 else (torch.zeros(1, 3, dtype=torch.int64),)
    source = ExportSource(module.eval(), args, input_names=["x"], output_names=names)
    with pytest.raises(ExportError, match="is taken"):
        export_model(source, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def f(:", "cannot be imported"),
        ("def f():\n    raise OSError('no weights')\n", "the factory fails: no weights"),
        ("f = 3\n", "has no function 'f'"),
        (
            "import torch\ndef f():\n    return torch.nn.Linear(2, 2), (torch.ones(3),)\n",
            "the module fails on its example inputs",
        ),
    ],
)
def test_failures_of_the_users_code_are_errors(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ExportError, match=message):
        export_model(f"{name}:f", tmp_path / "m.onnx")
