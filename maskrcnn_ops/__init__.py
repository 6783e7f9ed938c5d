"""Region operators for PyTorch with hand-written CPU and CUDA kernels; a drop-in for ``torchvision.ops``."""

from maskrcnn_ops._library import load
from maskrcnn_ops.version import __version__

load()

from maskrcnn_ops.roi_align import RoIAlign, roi_align  # noqa: E402

__all__ = ["RoIAlign", "__version__", "roi_align"]
