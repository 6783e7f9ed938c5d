"""The losses of the detectors, each a sum over a count.

The count goes through :func:`normalizer`: in distributed training it becomes its mean over the processes, so
that gradients averaged over processes equal those of one process on the joint batch.

``counted`` (bool, one for each row) leaves rows out; by default all count. So the rows' number need not depend on the
data, and nobody has to wait for it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

SMOOTH_L1_BETA = 1 / 9
IGNORED = -100  # class of what does not count: a keypoint without a cell, a slot without a region


def normalizer(count: int | Tensor, device: torch.device | str = "cpu") -> Tensor | float:
    """What a summed loss is divided by: ``count``, or its mean over the processes of an initialised group.

    Every process must call it equally often in the same order. A count that is zero everywhere divides by
    one.

    Args:
        count: elements that this process sums over; a tensor (int64, 0-dim) is not read back.
        device: where the mean is taken; the default group's backend must serve it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1) if isinstance(count, Tensor) else float(max(count, 1))
    total = torch.as_tensor(count, device=device).to(torch.float32, copy=True)
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


def _sum(values: Tensor, counted: Tensor | None) -> Tensor:
    """Of all values ``[R, ...]`` in the rows that count."""
    if counted is not None:
        values = torch.where(counted.view(-1, *[1] * (values.dim() - 1)), values, 0.0)
    return values.sum()


def _binary_cross_entropy(logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    return _sum(F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none"), counted)


def objectness_loss(
    logits: Tensor, labels: Tensor, count: Tensor | float, counted: Tensor | None = None
) -> Tensor:
    """RPN class loss: binary cross-entropy of sampled anchors, ``logits [S]``, ``labels [S]`` in {0, 1}."""
    return _binary_cross_entropy(logits, labels.float(), counted) / count


def box_loss(
    deltas: Tensor,
    targets: Tensor,
    count: Tensor | float,
    beta: float = SMOOTH_L1_BETA,
    counted: Tensor | None = None,
) -> Tensor:
    """Smooth L1 of the encoded boxes ``[P, 4]`` of positives, for the RPN, the box head and YOLACT.

    The sum runs over positives only, ``count`` over positives and negatives (in YOLACT positives). Differences below
    ``beta`` count squared; with 0, plain L1, none do.
    """
    if counted is not None:
        # Replaced, not multiplied by zero: what does not count may be infinite.
        targets = torch.where(counted[:, None], targets, deltas.detach().float())
    return F.smooth_l1_loss(deltas.float(), targets, beta=beta, reduction="sum") / count


def classifier_loss(logits: Tensor, labels: Tensor, count: Tensor | float) -> Tensor:
    """Softmax cross-entropy of sampled RoIs, ``logits [R, K]`` with ``labels [R]`` (0 is background; :data:`IGNORED`
    does not count)."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / count


def mask_loss(
    logits: Tensor, targets: Tensor, count: Tensor | float, counted: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy per pixel of ``logits`` and ``targets`` ``[P, M, M]``, each of one class."""
    pixels = logits.shape[-2] * logits.shape[-1]
    return _binary_cross_entropy(logits, targets, counted) / (count * pixels)


def softmax_mask_loss(
    log_probabilities: Tensor, targets: Tensor, count: Tensor | float, counted: Tensor | None = None
) -> Tensor:
    """Cross-entropy per pixel over all classes: ``log_probabilities [P, 2, M, M]`` of the background and of the
    region's class, ``targets [P, M, M]`` the share of the pixel that is its class's."""
    background, own = log_probabilities.unbind(dim=1)
    pixels = targets.shape[-2] * targets.shape[-1]
    return -_sum(targets * own + (1 - targets) * background, counted) / (count * pixels)


def mask_iou_loss(
    ious: Tensor, targets: Tensor, count: Tensor | float, counted: Tensor | None = None
) -> Tensor:
    """Squared error of the IoUs ``[P]`` that a MaskIoU head gives to masks."""
    return _sum(F.mse_loss(ious.float(), targets, reduction="none"), counted) / count


def keypoint_loss(logits: Tensor, targets: Tensor, valid: Tensor, count: Tensor | float) -> Tensor:
    """Softmax cross-entropy over the cells of each heat map, of which one is the keypoint's.

    Args:
        logits: ``[P, K, M, M]``.
        targets: int64 ``[P, K]``, the cell ``row * M + column``.
        valid: bool ``[P, K]``, the keypoints that count; without any the loss is a zero with gradients.
        count: keypoints that count.
    """
    # Left out by the index, not by a selection, whose size would have to be read back.
    cells = torch.where(valid, targets, IGNORED).flatten()
    maps = logits.float().flatten(2).flatten(0, 1)
    return F.cross_entropy(maps, cells, ignore_index=IGNORED, reduction="sum") / count
