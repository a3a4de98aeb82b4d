"""What goes into a bundle, for the modules of its targets."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fqonnx.bundle import Manifest
from fqonnx.deploy.measure import Measured
from fqonnx.deploy.options import DeployOptions
from fqonnx.deploy.source import Source
from fqonnx.golden import rel_error


@dataclass(frozen=True)
class Layout:
    """Where the large files of a bundle are; paths are below its folder, with slashes.

    Attributes:
        model: The model.
        library: The library of operators, where it goes with the model.
        carried: Files that are there already, by their paths in the bundle.
        dims: Sizes of symbolic dimensions of the model that are known nevertheless.
        runtime: Lowest N of ONNX Runtime 1.N that the server, or an earlier version of the model,
            goes with; 0 where it is any.
    """

    model: str
    library: str = "libfqonnx_ops.so"
    carried: Mapping[str, Path] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    runtime: int = 0


@dataclass(frozen=True)
class Contents:
    """What the small files are made of.

    Attributes:
        source: The compiled model.
        options: What was asked for.
        manifest: Of the bundle, its list of files still empty.
        measured: Golden outputs and costs.
    """

    source: Source
    options: DeployOptions
    manifest: Manifest
    measured: Measured

    @property
    def is_cuda(self) -> bool:
        """Whether a GPU runs the model."""
        return self.manifest.providers[0] == "CUDAExecutionProvider"

    def render(self, template: str, **values: Any) -> bytes:
        """Return a file made from one of the templates, which sees all of this and ``values``."""
        text = (
            _environment()
            .get_template(template)
            .render(
                source=self.source,
                options=self.options,
                manifest=self.manifest,
                measured=self.measured,
                cuda=self.is_cuda,
                rel_error=inspect.getsource(rel_error),
                **values,
            )
        )
        return text.encode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fqonnx.deploy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda text: json.dumps(str(text), ensure_ascii=False)
    return environment
