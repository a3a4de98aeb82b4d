"""Whether a machine can run what was deployed to it, and if not, why not and what to do."""

from fqonnx.doctor.examine import examine_bundle, examine_installation
from fqonnx.doctor.finding import Finding

__all__ = ["Finding", "examine_bundle", "examine_installation"]
