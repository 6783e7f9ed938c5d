"""When a look at a tensor's values has a price."""

from __future__ import annotations

from torch import Tensor


def waits_for(tensor: Tensor) -> bool:
    """Whether reading a value, or the number of values that fulfil something, stops Python until the device has
    done all that is queued: on a GPU. There shapes must not depend on the data."""
    return tensor.device.type != "cpu"
