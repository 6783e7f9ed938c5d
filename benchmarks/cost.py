"""Cost against size: NMS by boxes, RoIAlign by RoIs. The report draws these rows as lines."""

import dataclasses
from functools import partial

from benchmarks import inputs, nms, pooling, roi_align
from benchmarks.harness import Case, Row, Setting

BOXES = (300, 1000, 3000, 10000, 30000)
ROIS = (10, 30, 100, 300, 1000, 3000)


def _roi_align(count: int, layout: str, setting: Setting) -> Case:
    """RoIAlign's row with another number of RoIs."""

    def sized(sizes: inputs.Sizes) -> inputs.Sizes:
        return sizes if setting.quick else dataclasses.replace(sizes, rois=count)

    fewer = dataclasses.replace(
        roi_align.POOLING,
        rois=lambda sizes: inputs.rois(sized(sizes)),
        gradient=lambda sizes, dtype, device: inputs.pooled_gradient(sized(sizes), dtype, device),
    )
    return pooling.prepare(fewer, "forward", "float32", layout, setting)


ROWS = [
    *(
        Row(
            name=f"cost/nms {name}/{count}",
            prepare=partial(nms.prepare, count, boxes),
            tolerance=0.0,
            series=(f"nms, {name} boxes", count),
        )
        for name, boxes in (("scattered", inputs.boxes), ("clustered", inputs.clustered_boxes))
        for count in BOXES
    ),
    *(
        Row(
            name=f"cost/roi_align {layout}/{count}",
            prepare=partial(_roi_align, count, layout),
            tolerance=roi_align.POOLING.tolerances["forward", "float32"],
            series=(f"roi_align, {layout}, RoIs", count),
        )
        for layout in inputs.LAYOUTS
        for count in ROIS
    ),
]
