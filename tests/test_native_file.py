from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from fqonnx.errors import LibraryError
from fqonnx.native_file import library_machine, library_needs, loading_mend, runs_on
from fqonnx.runtime_ops import library_path


def test_the_library_says_what_it_needs() -> None:
    path = library_path()
    if path is None:
        pytest.skip("the native library was not built")
    needs = library_needs(path)
    assert (needs.machine, needs.ort_api) == (platform.machine(), 17)
    assert bool(needs.cuda_architectures) == (needs.cuda_toolkit is not None)


@pytest.mark.parametrize(
    ("order", "number", "name"),
    [(1, 62, "x86_64"), (1, 183, "aarch64"), (2, 22, "s390x"), (1, 999, "machine 999 of ELF")],
)
def test_machines_are_read_from_the_head(
    order: int, number: int, name: str, tmp_path: Path
) -> None:
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02" + bytes([order])
    struct.pack_into("<H" if order == 1 else ">H", head, 18, number)
    (tmp_path / "lib.so").write_bytes(head)
    assert library_machine(tmp_path / "lib.so") == name


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    with pytest.raises(LibraryError, match="not readable"):
        library_machine(path)
    path.write_bytes(b"\x7fELF")
    with pytest.raises(LibraryError, match="no shared library of Linux"):
        library_machine(path)
    path.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(LibraryError, match="no library of this version of fqonnx"):
        library_needs(path)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("80-real",), 80, True),
        (("80-real",), 86, True),
        (("86-real",), 80, False),
        (("80-real",), 90, False),
        (("80",), 90, True),
        (("90-virtual",), 100, True),
        (("90-virtual",), 89, False),
        (("90a",), 90, True),
        (("90a",), 100, False),
        (("native",), 90, False),
        ((), 90, False),
    ],
)
def test_code_runs_where_cuda_says(
    architectures: tuple[str, ...], capability: int, runs: bool
) -> None:
    assert runs_on(architectures, capability) == runs


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (
            "with error: libcudart.so.12: cannot open shared object file: No such file",
            "Install the package that has libcudart.so.12, or name its folder in LD_LIBRARY_PATH",
        ),
        (
            "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by l.so)",
            "Use a system that has GLIBC_2.38, or build fqonnx on this one and deploy again",
        ),
        ("/b/l.so: cannot open shared object file: No such file or directory", None),
        ("/b/l.so: undefined symbol: nothing", None),
    ],
)
def test_what_the_linker_says_has_a_mend(said: str, mend: str | None) -> None:
    assert loading_mend(said) == mend
