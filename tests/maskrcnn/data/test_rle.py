"""The vectorised checks of run-length encodings, against pycocotools' own coding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from maskrcnn.data.rle import _CHUNK, _decode, find_bad_counts, find_bad_strings

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.integers(0, 1))
)


def encode(mask: np.ndarray) -> bytes:
    return coco_mask.encode(np.asfortranarray(mask))["counts"]


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths the slow way: down the columns, zeros first."""
    counts, value = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def packed(parts: list, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = np.cumsum([len(part) for part in parts])
    data = np.concatenate(
        [np.frombuffer(p, np.uint8) if isinstance(p, bytes) else np.array(p, dtype) for p in parts]
    )
    return data.astype(dtype), ends - [len(part) for part in parts], ends


@given(st.lists(masks, min_size=1, max_size=6))
def test_strings_decode_to_their_runs(examples):
    text, starts, ends = packed([encode(mask) for mask in examples], np.uint8)
    areas = np.array([mask.size for mask in examples])
    assert find_bad_strings(text, starts, ends, areas) is None

    groups = text.astype(np.int64) - 48
    is_last = groups < 32
    value_starts = np.flatnonzero(np.concatenate(([True], is_last[:-1])))
    counts, first = _decode(groups, value_starts, np.diff(np.append(value_starts, len(groups))), starts)
    assert [part.tolist() for part in np.split(counts, first[1:])] == [runs(mask) for mask in examples]


@given(st.lists(masks, min_size=1, max_size=6), st.integers(0, 5), st.sampled_from([-1, 1, 1000]))
def test_wrong_areas_are_found(examples, which, error):
    which %= len(examples)
    areas = np.array([mask.size for mask in examples])
    areas[which] += error
    text, starts, ends = packed([encode(mask) for mask in examples], np.uint8)
    assert find_bad_strings(text, starts, ends, areas)[0] == which
    counts, starts, ends = packed([runs(mask) for mask in examples], np.int64)
    found, message = find_bad_counts(counts, starts, ends, areas)
    assert found == which
    assert f"runs add up to {examples[which].size} pixels, the image has {areas[which]}" in message


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4))
def test_no_string_crashes(strings):
    text, starts, ends = packed(strings, np.uint8)
    problem = find_bad_strings(text, starts, ends, np.full(len(strings), 100))
    assert problem is None or 0 <= problem[0] < len(strings)


def test_many_strings_are_checked_to_the_last():
    mask = np.eye(5, dtype=np.uint8)
    number = 2 * _CHUNK + 3
    text, starts, ends = packed([encode(mask)] * number, np.uint8)
    areas = np.full(number, 25)
    assert find_bad_strings(text, starts, ends, areas) is None
    areas[-1] = 26
    assert find_bad_strings(text, starts, ends, areas)[0] == number - 1


def test_long_runs():
    """Lengths of several groups of bits, and differences of both signs."""
    mask = np.zeros((3000, 1000), dtype=np.uint8)
    mask[1:2900, 2] = 1
    mask[5, 900] = 1
    text, starts, ends = packed([encode(mask)], np.uint8)
    assert find_bad_strings(text, starts, ends, np.array([mask.size])) is None
    assert find_bad_strings(text, starts, ends, np.array([mask.size + 1])) is not None
