"""Layers that get options of their own, from a TOML file.

    ["encoder.layer.0.*"]
    bits = 4

    ["encoder.layer.*.output.dense"]
    redundancy = 1.125

A table is named by a glob over layer, node and weight names; of several that match, later ones win.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from fqonnx.config import Override
from fqonnx.errors import ConfigError, first_line
from fqonnx.files import regular

_TYPES: dict[str, tuple[type, ...]] = {"bits": (int,), "redundancy": (int, float)}
_EXAMPLE = 'Write tables such as ["encoder.layer.0.*"] with bits = 4 or redundancy = 1.125'


def load_overrides(path: Path) -> tuple[Override, ...]:
    """Read a file.

    Raises:
        ConfigError: It is no file or no TOML, or holds something else (`CompileConfig` checks the
            values).
    """
    try:
        content = tomllib.loads(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"not read: {error.strerror}", "Name a TOML file") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise ConfigError(str(path), f"no TOML: {first_line(error)}", _EXAMPLE) from error
    overrides = []
    for pattern, values in content.items():
        if not isinstance(values, dict):
            raise ConfigError(str(path), f"found {pattern} = {values!r} outside a table", _EXAMPLE)
        for name, value in values.items():
            if not isinstance(value, _TYPES.get(name, ())) or isinstance(value, bool):
                found = f"found {name} = {value!r} in the table {pattern!r}"
                raise ConfigError(str(path), found, _EXAMPLE)
        overrides.append(Override(pattern, **values))
    return tuple(overrides)


def write_overrides(overrides: Iterable[Override]) -> str:
    """Return the TOML of what `load_overrides` reads."""
    tables = []
    for override in overrides:
        lines = [f"[{_quoted(override.pattern)}]"]
        if override.bits is not None:
            lines.append(f"bits = {override.bits}")
        if override.redundancy is not None:
            lines.append(f"redundancy = {float(override.redundancy)}")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
