"""Normalisation with constant statistics, folded into the convolution before it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

from maskrcnn.models.norm import FrozenBatchNorm2d

CONSTANT_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy of a model for evaluation, whose batch norms (frozen or not) are part of its convolutions.

    A norm is folded where it follows its convolution by name (``conv1``, ``bn1``) or in an ``nn.Sequential``;
    ``nn.Identity`` takes its place. The results are the model's up to rounding. The copy is in evaluation
    mode, its parameters ask for no gradients, and its state dict is no longer the architecture's: it is made
    for running, not for saving.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(model.modules()):
        for conv_name, norm_name in _pairs(parent):
            conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, CONSTANT_NORMS):
                continue
            mean, variance = norm.running_mean, norm.running_var
            if mean is None or variance is None:  # it takes the batch's statistics
                continue
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
            )
            setattr(parent, norm_name, nn.Identity())
    return model


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of children of which the second works on the output of the first."""
    names = [name for name, _ in parent.named_children()]
    if isinstance(parent, nn.Sequential):
        yield from pairwise(names)
        return
    for name in names:
        norm_name = re.sub(r"^conv(?=\d+$)", "bn", name)
        if norm_name != name and norm_name in names:
            yield name, norm_name
