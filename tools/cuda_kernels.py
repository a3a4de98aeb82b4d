"""The CUDA kernels through their C interface, on the memory of a GPU or of the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fqonnx.frames import FrameSpec
from fqonnx.runtime_ops import FrameOpSpec

ELEMENTS = {"float32": 0, "float16": 1, "bfloat16": 2}
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PATHS = {"faster": 0, "fused": 1, "cuBLAS": 2}
PACKED = ("codes", "scales", "zero_points", "signs_in", "signs_out", "levels")


class Memory(Protocol):
    """Where tensors of a device are, as bytes, and the stream that work on them is put into."""

    stream: int

    def put(self, array: np.ndarray) -> Any: ...
    def empty(self, num_bytes: int) -> Any: ...
    def pointer(self, tensor: Any) -> int: ...
    def bytes_of(self, tensor: Any) -> bytes: ...


class HostMemory:
    """NumPy's memory, for the emulator. What is empty is filled with NaN."""

    stream = 0

    def put(self, array: np.ndarray) -> np.ndarray:
        return _aligned(array.tobytes())

    def empty(self, num_bytes: int) -> np.ndarray:
        return _aligned(b"\xff" * num_bytes)

    def pointer(self, tensor: np.ndarray) -> int:
        return tensor.ctypes.data

    def bytes_of(self, tensor: np.ndarray) -> bytes:
        return tensor.tobytes()


class TorchMemory:
    """The memory of a GPU, by PyTorch."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    @property
    def stream(self) -> int:
        return self._torch.cuda.current_stream().cuda_stream

    def put(self, array: np.ndarray) -> Any:
        data = np.frombuffer(bytearray(array.tobytes()), np.uint8)
        return self._torch.from_numpy(data).cuda()

    def empty(self, num_bytes: int) -> Any:
        return self._torch.full((num_bytes,), 255, dtype=self._torch.uint8, device="cuda")

    def pointer(self, tensor: Any) -> int:
        return tensor.data_ptr()

    def bytes_of(self, tensor: Any) -> bytes:
        return tensor.cpu().numpy().tobytes()


class _Frame(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_char_p),
        ("dim", ctypes.c_int64),
        ("num_vectors", ctypes.c_int64),
        ("subspaces", ctypes.c_int64 * 3),
    )

    @classmethod
    def of(cls, spec: FrameSpec) -> _Frame:
        subspaces = (ctypes.c_int64 * 3)(*(spec.subspaces or (0, 0, 0)))
        return cls(spec.kind.encode(), spec.dim, spec.num_vectors, subspaces)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("frame_in", _Frame),
        ("frame_out", _Frame),
        ("bits", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("group_size", ctypes.c_int64),
        ("fast", ctypes.c_int64),
        ("trellis", ctypes.c_int64),
        ("multiplier", ctypes.c_int64),
    )


class _Inputs(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in PACKED)


def load_kernels(path: Path) -> ctypes.CDLL:
    """Return the library at ``path``.

    Raises:
        OSError: It does not load.
        AttributeError: It was built without kernels for CUDA.
    """
    library = ctypes.CDLL(str(path))
    for name in ("create", "prepare", "force", "matmul_scratch", "matmul", "dequantize_scratch"):
        getattr(library, f"fqonnx_cuda_{name}").restype = ctypes.c_char_p
    library.fqonnx_cuda_dequantize.restype = ctypes.c_char_p
    library.fqonnx_cuda_table_bytes.restype = ctypes.c_size_t
    return library


class Kernel:
    """One operator with its packed inputs in ``memory``.

    Args:
        library: From `load_kernels`.
        memory: Where all tensors are.
        spec: The operator; its dtype does not matter.
        arrays: The packed inputs by name, None or left out where absent.

    Raises:
        RuntimeError: The library refuses it.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        memory: Memory,
        spec: FrameOpSpec,
        arrays: Mapping[str, np.ndarray | None],
    ) -> None:
        self.memory, self._library, self._spec = memory, library, spec
        attributes = _Attributes(
            _Frame.of(spec.frame_in),
            _Frame.of(spec.frame_out),
            spec.bits,
            spec.block_size,
            spec.group_size or 0,
            spec.contrib,
            spec.codebook == "trellis",
            spec.multiplier,
        )
        self._op = ctypes.c_void_p()
        self._call("create", ctypes.byref(attributes), ctypes.byref(self._op))
        self._tensors = {n: memory.put(a) for n in PACKED if (a := arrays.get(n)) is not None}
        self._inputs = _Inputs(*(self._pointer(self._tensors.get(name)) for name in PACKED))
        self._tables = memory.empty(library.fqonnx_cuda_table_bytes(self._op))
        self._call("prepare", self._op, self._pointer(self._tables))

    def __del__(self) -> None:
        self._library.fqonnx_cuda_destroy(self._op)

    def force(self, path: str) -> None:
        """Take one of ``PATHS`` for any number of rows.

        Raises:
            RuntimeError: There is no cuBLAS.
        """
        self._call("force", self._op, PATHS[path])

    def matmul_scratch(self, rows: int, dtype: str) -> Any:
        size = ctypes.c_size_t()
        arguments = ctypes.c_size_t(rows), ELEMENTS[dtype], ctypes.byref(size)
        self._call("matmul_scratch", self._op, *arguments)
        return self.memory.empty(size.value)

    def matmul(
        self,
        x: Any,
        dtype: str,
        rows: int,
        bias: Any,
        outputs: Sequence[tuple[Any, int]],
        scratch: Any,
    ) -> None:
        """Compute into ``outputs``, pairs of a tensor and its columns."""
        pointers = (ctypes.c_void_p * len(outputs))(*(self._pointer(y) for y, _ in outputs))
        widths = (ctypes.c_size_t * len(outputs))(*(width for _, width in outputs))
        self._call(
            "matmul",
            self._op,
            self._pointer(x),
            ELEMENTS[dtype],
            ctypes.c_size_t(rows),
            ctypes.byref(self._inputs),
            self._pointer(bias),
            pointers,
            widths,
            ctypes.c_size_t(len(outputs)),
            self._pointer(scratch),
            self._stream(),
        )

    def run_matmul(
        self,
        x: np.ndarray,
        dtype: str,
        bias: np.ndarray | None = None,
        widths: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Return each output in float32; ``x`` and ``bias`` are rounded to ``dtype``."""
        rows, memory = len(x), self.memory
        outputs = [
            (memory.empty(rows * width * ELEMENT_BYTES[dtype]), width)
            for width in widths or (self._spec.frame_out.dim,)
        ]
        given_bias = None if bias is None else memory.put(to_bits(bias, dtype))
        scratch = self.matmul_scratch(rows, dtype)
        self.matmul(memory.put(to_bits(x, dtype)), dtype, rows, given_bias, outputs, scratch)
        return [from_bits(memory.bytes_of(y), dtype).reshape(rows, width) for y, width in outputs]

    def run_dequantize(self, dtype: str) -> np.ndarray:
        """Return W in float32."""
        shape = self._spec.frame_in.dim, self._spec.frame_out.dim
        weight = self.memory.empty(shape[0] * shape[1] * ELEMENT_BYTES[dtype])
        self.dequantize(weight, dtype, self.dequantize_scratch())
        return from_bits(self.memory.bytes_of(weight), dtype).reshape(shape)

    def dequantize_scratch(self) -> Any:
        size = ctypes.c_size_t()
        self._call("dequantize_scratch", self._op, ctypes.byref(size))
        return self.memory.empty(size.value)

    def dequantize(self, weight: Any, dtype: str, scratch: Any) -> None:
        pointers = self._pointer(weight), self._pointer(scratch), self._stream()
        self._call("dequantize", self._op, ctypes.byref(self._inputs), ELEMENTS[dtype], *pointers)

    def _call(self, name: str, *arguments: Any) -> None:
        message = getattr(self._library, f"fqonnx_cuda_{name}")(*arguments)
        if message is not None:
            raise RuntimeError(message.decode())

    def _pointer(self, tensor: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else self.memory.pointer(tensor))

    def _stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.memory.stream)


def to_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers of ``dtype`` as NumPy has them; bfloat16, which it does not, in 16 bits."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(data: bytes, dtype: str) -> np.ndarray:
    """Return numbers of ``dtype`` in float32."""
    if dtype != "bfloat16":
        return np.frombuffer(data, dtype).astype(np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _aligned(data: bytes) -> np.ndarray:
    memory = np.zeros(len(data) + 256, np.uint8)
    start = -memory.ctypes.data % 256
    memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return memory[start : start + len(data)]
