"""Which contents may be near-duplicates: those whose hashes have a byte in common, and differ in few bits.

Hashes that differ in d of 64 bits have one of their eight bytes in common for every d < 8, and nearly always for d up
to 10 (97 % of pairs at 10, were the bits to differ at random): banding, as locality-sensitive hashing has it
(P. Indyk, R. Motwani, STOC 1998). What shares a byte is a bucket, and no bucket is compared in full when it is large:
its hashes are sorted, and each is compared with those that come next. So the work grows with the number of contents.
"""

import numpy as np
import numpy.typing as npt

from components.duplicates.perceptual_hash import BITS, Hashes

BANDS = 8
# Up to here each of a bucket is compared with each. Beyond, with _BLOCK to 2 * _BLOCK neighbours in order.
_BLOCK = 512
# Of each content so many pairs are kept in a bucket: with those that differ least from it, and with those that come
# first in the order in which groups are led. The latter keep a large group from falling apart.
_NEAREST = 8
_FIRST = 8

Rows = npt.NDArray[np.int64]


def band(hashes: Hashes, number: int) -> npt.NDArray[np.uint8]:
    """Returns byte `number`, in [0, 8), of each hash: uint8 `[N]`."""
    return (hashes >> np.uint64(8 * number)).astype(np.uint8)


def turned(hashes: Hashes, number: int) -> Hashes:
    """Returns the hashes with byte `number` in front, then the one after it, and so on, around.

    As many bits differ. In order they have other bits in common for every band: what is far apart in one large bucket
    may be close in another.
    """
    order = [(number + place) % BANDS for place in range(BANDS)]
    octets = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, BANDS)[:, order]
    return np.ascontiguousarray(octets).view(">u8").reshape(-1).astype(np.uint64)


def near_pairs(hashes: Hashes, order: Hashes, hamming: int) -> Rows:
    """Returns pairs of places, int64 `[P, 2]`, whose hashes differ in at most `hamming` bits: not all where many do.

    hashes: uint64 `[N]`, of one bucket. order: uint64 `[N]`, what groups are led by; smaller is first.
    """
    if len(hashes) < 2:
        return np.zeros((0, 2), np.int64)
    # Neighbours in this order have the leading bytes in common; equal hashes stand together.
    sorted_ = np.lexsort((order, hashes))
    by_rank = np.argsort(order[sorted_], kind="stable")
    rank = np.empty(len(hashes), np.int64)
    rank[by_rank] = np.arange(len(hashes))
    signs = _signs(hashes[sorted_])
    # The product of two vectors of signs is 64 less twice the number of bits that differ.
    least = BITS - 2 * hamming
    found = []
    for start in range(0, len(hashes), _BLOCK):
        products = signs[start : start + _BLOCK] @ signs[start : start + 2 * _BLOCK].T
        rows, columns = np.nonzero(products >= least)
        others = rows != columns
        rows, columns = rows[others], columns[others]
        differing = (BITS - products[rows, columns]).astype(np.int64) // 2
        found.append(_kept(rows, rank[columns + start], differing) + np.array([start, 0]))
        # Of the next block each has been compared with this one, from this side only.
        later = columns >= _BLOCK
        found.append(_kept(columns[later], rank[rows[later] + start], differing[later]) + np.array([start, 0]))
    pairs = np.concatenate(found)
    pairs[:, 1] = by_rank[pairs[:, 1]]
    return np.asarray(sorted_[distinct_pairs(pairs)], np.int64)


def distinct_pairs(pairs: Rows) -> Rows:
    """Returns the pairs, int64 `[P, 2]`, the smaller first, each once."""
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    new = np.ones(len(low), np.bool_)
    # np.unique would sort them as strings of bytes, which takes ten times as long.
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.column_stack([low[new], high[new]])


def _kept(rows: Rows, ranks: Rows, differing: Rows) -> Rows:
    """Returns (row, rank) of each row's nearest, and of its first. rows: less than 2 * _BLOCK."""
    # Sorted as one number each, which takes a fraction of the time of sorting by three.
    nearest = np.sort(rows << 48 | differing << 40 | ranks)
    first = np.sort(rows << 48 | ranks)
    return np.concatenate([_leading(nearest, _NEAREST), _leading(first, _FIRST)])


def _leading(keys: Rows, most: int) -> Rows:
    """Returns (row, rank) of the first `most` of each row, of sorted keys."""
    rows = keys >> 48
    chosen = keys[np.arange(len(keys)) - np.searchsorted(rows, rows) < most]
    return np.column_stack([chosen >> 48, chosen & (2**40 - 1)])


def _signs(hashes: Hashes) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, 64]`: 1 for a bit that is set, -1 for one that isn't."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
