"""The report of ``fqonnx diff`` as a page of HTML."""

from fqonnx.html.page import to_html

__all__ = ["to_html"]
