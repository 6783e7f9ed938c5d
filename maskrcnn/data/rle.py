"""Checks of COCO run-length encodings, vectorised over many of them.

An encoding lists the lengths of alternating runs of zeros and ones, down the columns of the mask. Compressed,
each length is written as its difference to the length two places before (from the fourth on), in groups of
five bits,
lowest first, one character a group: ``chr(48 + bits + 32 * more)``; bit 4 of the last group is the sign.
pycocotools trusts the lengths it is given, so wrong ones have to be found before.
"""

from __future__ import annotations

import numpy as np

Problem = tuple[int, str]
"""The position of the first bad encoding, and what is wrong with it."""

_CHUNK = 20_000  # encodings at a time: bounds the memory
_MAX_GROUPS = 7  # 35 bits, more than any run length of a picture that fits in memory


def find_bad_counts(
    counts: np.ndarray, starts: np.ndarray, ends: np.ndarray, areas: np.ndarray
) -> Problem | None:
    """Find the first encoding whose runs are negative or do not add up to its image's area.

    Args:
        counts: int64, the run lengths of all encodings, one encoding after the other.
        starts, ends: int64 [R], encoding r is ``counts[starts[r]:ends[r]]``; the ranges follow one another.
        areas: int64 [R], pixels of the image.
    """
    if (bad := np.flatnonzero(starts == ends)).size:
        return int(bad[0]), "segmentation counts are empty"
    if not len(starts):
        return None
    negative = np.minimum.reduceat(counts, starts) < 0
    too_long = np.maximum.reduceat(counts, starts) > areas  # also keeps the sums from overflowing unnoticed
    bad = np.flatnonzero(negative | too_long | (np.add.reduceat(counts, starts) != areas))
    if not bad.size:
        return None
    r = int(bad[0])
    runs = counts[starts[r] : ends[r]]
    if runs.min() < 0:
        return r, f"segmentation has a run of negative length {runs.min()}"
    return r, f"segmentation runs add up to {sum(runs.tolist())} pixels, the image has {areas[r]}"


def find_bad_strings(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, areas: np.ndarray
) -> Problem | None:
    """The same as :func:`find_bad_counts` for compressed encodings; ``text`` (uint8) holds their
    characters."""
    for first in range(0, len(starts), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        offset = starts[chunk][0]
        characters = text[offset : ends[chunk][-1]]
        problem = _check_chunk(characters, starts[chunk] - offset, ends[chunk] - offset, areas[chunk])
        if problem is not None:
            return first + problem[0], problem[1]
    return None


def _check_chunk(
    characters: np.ndarray, starts: np.ndarray, ends: np.ndarray, areas: np.ndarray
) -> Problem | None:
    if (bad := np.flatnonzero(starts == ends)).size:
        return int(bad[0]), "segmentation counts are empty"
    groups = characters.astype(np.int64) - 48
    if (bad := np.flatnonzero((groups < 0) | (groups > 63))).size:
        r = int(np.searchsorted(ends, bad[0], side="right"))
        return r, f"segmentation counts hold {chr(characters[bad[0]])!r}, which no encoding has"
    is_last = groups < 32
    if (bad := np.flatnonzero(~is_last[ends - 1])).size:
        return int(bad[0]), "segmentation counts end in the middle of a number"

    value_starts = np.flatnonzero(np.concatenate(([True], is_last[:-1])))
    value_lengths = np.diff(np.append(value_starts, len(groups)))
    if (bad := np.flatnonzero(value_lengths > _MAX_GROUPS)).size:
        r = int(np.searchsorted(ends, value_starts[bad[0]], side="right"))
        return r, "segmentation counts hold a number of more than 35 bits"
    counts, first_value = _decode(groups, value_starts, value_lengths, starts)
    return find_bad_counts(counts, first_value, np.append(first_value[1:], len(counts)), areas)


def _decode(
    groups: np.ndarray, value_starts: np.ndarray, value_lengths: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all strings, and the position of each string's first one."""
    shifts = 5 * (np.arange(len(groups)) - np.repeat(value_starts, value_lengths))
    values = np.add.reduceat((groups & 31) << shifts, value_starts)
    negative = (groups[value_starts + value_lengths - 1] & 16) != 0
    values -= negative.astype(np.int64) << (5 * value_lengths)

    first_value = np.searchsorted(value_starts, starts)
    numbers = np.diff(np.append(first_value, len(values)))
    string = np.repeat(np.arange(len(starts)), numbers)
    place = np.arange(len(values)) - first_value[string]
    for parity in (
        1,
        0,
    ):  # undo the differences: two running sums per string; the very first value stands alone
        chosen = np.flatnonzero((place % 2 == parity) & (place > 0))
        if chosen.size:
            sums = np.cumsum(values[chosen])
            begins = np.flatnonzero(np.diff(string[chosen], prepend=-1))
            base = sums[begins] - values[chosen[begins]]
            values[chosen] = sums - np.repeat(base, np.diff(np.append(begins, len(chosen))))
    return values, first_value
