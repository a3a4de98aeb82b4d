"""Deployment: from a compiled model to a folder that a server takes."""

from fqonnx.deploy.bundle import deploy
from fqonnx.deploy.options import DeployOptions, Device, ServerTarget

__all__ = ["DeployOptions", "Device", "ServerTarget", "deploy"]
