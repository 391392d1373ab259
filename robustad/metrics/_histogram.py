"""A histogram of float32 values of unknown range, with bins of equal relative width.

The bits of a positive float32, read as an integer, are ordered as the number is. Cutting off the
low `shift` bits of that integer gives bins that are narrow near zero and wide in the tail:
2^(23 - shift) in each octave. Each sign starts with shift 0, where a bin is one single float32,
and gives up a bit only when the range seen so far no longer fits. As neighbours are merged in
aligned pairs, that costs nothing but resolution: the result depends on the range of all values,
not on the order they came in. Zero has a bin of its own, so that the numbers around it, which
have every exponent down to the smallest, do not widen the range.

Between 1/2 and 1 the bits of 1 - x take the place of the bits of x, running backwards:
probabilities crowd at 1 as they do at 0, and get the same resolution there.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
KeyArray = npt.NDArray[np.uint32]
BinArray = npt.NDArray[np.int32]

_EMPTY = (2**32, -1)  # a range of keys without a key


class FloatHistogram:
    """Sums over bins of float32 values, in several channels.

    Parameters
    ----------
    bins : int
        Upper limit for the number of bins of each sign, at least 1.
    channels : int
        Independent sums to keep.

    Attributes
    ----------
    sums : array, (channels, L), float64
        The sums, in ascending order of the value; L <= 2 * `bins` + 1. Counts are exact up to
        2^53.
    """

    def __init__(self, bins: int, channels: int) -> None:
        self._negative, self._positive = _Side(bins), _Side(bins)
        self.sums: FloatArray = np.zeros((channels, 1))

    def bins_of(self, values: npt.NDArray[np.float32]) -> BinArray:
        """Bin of each value, after making room for their range.

        The bins hold until the next call, which may merge or shift them.
        """
        keys = magnitude_keys(values)
        if values.min() > 0.0:
            self._cover(_EMPTY, (int(keys.min()), int(keys.max())))
            return self._positive.bins_of(keys) + np.int32(self._negative.size + 1)
        below, above = values < 0.0, values > 0.0
        self._cover(_range(keys[below]), _range(keys[above]))
        zero = np.int32(self._negative.size)
        bins = np.where(above, zero + 1 + self._positive.bins_of(keys), zero)
        return np.where(below, zero - 1 - self._negative.bins_of(keys), bins)

    def add(self, channel: int, bins: BinArray, weights: FloatArray | None = None) -> None:
        """Add 1, or the weights, to the channel's sums at the bins that `bins_of` gave."""
        first = int(bins.min())
        part = np.bincount(bins - np.int32(first), weights)
        self.sums[channel, first : first + part.size] += part

    def _cover(self, negative: tuple[int, int], positive: tuple[int, int]) -> None:
        old, zero = self.sums, self._negative.size
        below, above = self._negative.cover(*negative), self._positive.cover(*positive)
        if below is None and above is None:
            return
        new_zero = self._negative.size
        self.sums = np.zeros((old.shape[0], new_zero + 1 + self._positive.size))
        self.sums[:, new_zero] = old[:, zero]
        _merge(old[:, :zero][:, ::-1], self.sums[:, :new_zero][:, ::-1], below)
        _merge(old[:, zero + 1 :], self.sums[:, new_zero + 1 :], above)


class _Side:
    """The bins of one sign, by the key of the magnitude; `size` of them are in use."""

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._low, self._high = _EMPTY
        self._shift = self._first = self.size = 0

    def bins_of(self, keys: KeyArray) -> BinArray:
        """Bins counted from the smallest magnitude; meaningless for keys out of range."""
        return ((keys >> np.uint32(self._shift)) - np.uint32(self._first)).view(np.int32)

    def cover(self, low: int, high: int) -> npt.NDArray[np.int64] | None:
        """Make room for a range of keys; where each old bin goes, or None if all stay."""
        self._low, self._high = min(low, self._low), max(high, self._high)
        if self._high < 0:
            return None
        shift = self._shift
        while (self._high >> shift) - (self._low >> shift) >= self._bins:
            shift += 1
        first, size = self._low >> shift, (self._high >> shift) - (self._low >> shift) + 1
        if (shift, first, size) == (self._shift, self._first, self.size):
            return None
        target = ((self._first + np.arange(self.size)) >> (shift - self._shift)) - first
        self._shift, self._first, self.size = shift, first, size
        return target


def magnitude_keys(values: npt.NDArray[np.float32]) -> KeyArray:
    """Integers ordered as the magnitudes of the values are, and equal where they are equal."""
    size = np.abs(values)
    keys: KeyArray = size.view(np.uint32)
    over = size > 0.5
    large = size[over]
    if not large.size:
        return keys
    half, one = _bits(0.5), _bits(1.0)
    # 1 - x is exact between 1/2 and 1, with 2^-24 as its smallest value; 1 comes an octave later.
    at_one = 2 * half - _bits(2.0**-25)
    beyond = large.view(np.uint32) + np.uint32(at_one - one)
    mirrored = np.uint32(2 * half) - np.abs(np.float32(1.0) - large).view(np.uint32)
    keys[over] = np.where(large < 1.0, mirrored, beyond)  # in place: `size` is a copy
    return keys


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _range(keys: KeyArray) -> tuple[int, int]:
    return (int(keys.min()), int(keys.max())) if keys.size else _EMPTY


def _merge(old: FloatArray, new: FloatArray, target: npt.NDArray[np.int64] | None) -> None:
    """Write the old sums to the new bins; several old ones may go to one."""
    if target is None:
        new[:] = old
    elif target.size:
        starts = np.flatnonzero(np.diff(target, prepend=-1))
        new[:, target[starts]] = np.add.reduceat(old, starts, axis=1)
