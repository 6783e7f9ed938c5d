"""Types of the compiled helper module; addresses are those of contiguous int64 arrays."""

version: str
built_torch: str
cuda_version: str
cuda_architectures: str
simd_level: str

def encode_runs(counts: int, offsets: int, masks: int) -> list[bytes]: ...
def decode_runs(texts: list[bytes], pixels: list[int]) -> tuple[bytearray, bytearray]: ...
def run_areas(ends: int, offsets: int, masks: int, output: int) -> None: ...
def run_boxes(ends: int, offsets: int, masks: int, height: int, output: int) -> None: ...
def run_ious(
    a_ends: int,
    a_offsets: int,
    a_masks: int,
    b_ends: int,
    b_offsets: int,
    b_masks: int,
    crowd: list[bool],
    output: int,
) -> None: ...
def run_bitmaps(ends: int, offsets: int, masks: int, pixels: int, output: int) -> None: ...
