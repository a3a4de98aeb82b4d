from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqonnx.config import Override
from fqonnx.errors import ConfigError
from fqonnx.overrides import load_overrides, write_overrides


def load(folder: Path, text: str) -> tuple[Override, ...]:
    path = folder / "layers.toml"
    path.write_text(text, encoding="utf-8")
    return load_overrides(path)


def test_tables_are_patterns_in_order(tmp_path: Path) -> None:
    text = '["*.dense"]\nbits = 3\n\n["layer.1.dense"]\nbits = 4\nredundancy = 1.25\n\n[head]\n'
    assert load(tmp_path, text) == (
        Override("*.dense", bits=3),
        Override("layer.1.dense", bits=4, redundancy=1.25),
        Override("head"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nbits = ", "no TOML"),
        ("bits = 3", "outside a table"),
        ("[a]\nbits = 2.5", "bits = 2.5 in the table 'a'"),
        ("[a]\nbits = '3'", "bits = '3' in the table 'a'"),
        ("[a]\nbits = true", "bits = True in the table 'a'"),
        ("[a.b]\nbits = 3", "b = .* in the table 'a'"),
        ("[a]\nmethod = 'auto'", "method = 'auto' in the table 'a'"),
    ],
)
def test_file_that_says_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as info:
        load(tmp_path, text)
    assert "layers.toml" in str(info.value)
    assert '["encoder.layer.0.*"]' in info.value.hint


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: not read"):
        load_overrides(tmp_path / "none.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no TOML"):
        load_overrides(tmp_path / "bytes.toml")


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.tuples(st.none() | st.integers(1, 4), st.none() | st.floats(1.0, 16.0, allow_nan=False)),
        max_size=4,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, own: dict) -> None:
    overrides = tuple(Override(pattern, *values) for pattern, values in own.items())
    folder = tmp_path_factory.mktemp("overrides")
    assert load(folder, write_overrides(overrides)) == overrides
