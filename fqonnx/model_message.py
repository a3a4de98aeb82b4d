"""A model as the message that ONNX Runtime reads, with its weights outside of it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

_LEAST_EXTERNAL_BYTES = 1 << 10  # smaller ones tell ONNX Runtime about shapes


def model_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, those of subgraphs included."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def message_with_files(model: ir.Model, folder: Path) -> bytes:
    """Return the model as a message whose weights are in files, named by their way from the root.

    Those of the model's own files stay where they are. The folder gets the others; it may go once a
    session has been made of the message.

    Raises:
        OSError: A file cannot be written.
    """
    model = model.clone()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes < _LEAST_EXTERNAL_BYTES:
                if isinstance(tensor, ir.ExternalTensor):
                    (tensor,) = ir.external_data.convert_tensors_from_external([tensor])
                value.const_value = tensor
                continue
            if not isinstance(tensor, ir.ExternalTensor):
                name = str(len(list(folder.iterdir())))
                (tensor,) = ir.external_data.convert_tensors_to_external([tensor], folder, name)
            value.const_value = ir.ExternalTensor(
                Path(tensor.path).resolve().relative_to("/"),
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=str(value.name),
                base_dir="/",
            )
    return bytes(ir.to_proto(model).SerializeToString())
