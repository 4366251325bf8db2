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


def near_pairs(hashes: Hashes, order: Hashes, hamming: int) -> Rows:
    """Returns pairs of places, int64 `[P, 2]`, whose hashes differ in at most `hamming` bits: not all where many do.

    hashes: uint64 `[N]`, of one bucket. order: uint64 `[N]`, what groups are led by; smaller is first.
    """
    if len(hashes) < 2:
        return np.zeros((0, 2), np.int64)
    # Neighbours in this order have the leading bytes in common; equal hashes stand together.
    sorted_ = np.lexsort((order, hashes))
    rank = np.empty(len(hashes), np.int64)
    rank[np.argsort(order[sorted_], kind="stable")] = np.arange(len(hashes))
    signs = _signs(hashes[sorted_])
    # The product of two vectors of signs is 64 less twice the number of bits that differ.
    least = BITS - 2 * hamming
    found = []
    for start in range(0, len(hashes), _BLOCK):
        products = signs[start : start + _BLOCK] @ signs[start : start + 2 * _BLOCK].T
        rows, columns = np.nonzero(products >= least)
        others = rows != columns
        rows, columns = rows[others], columns[others]
        values = products[rows, columns]
        rows, columns = rows + start, columns + start
        found.append(_kept(rows, columns, values, rank))
        # Of the next block each has been compared with this one, from this side only.
        later = columns >= start + _BLOCK
        found.append(_kept(columns[later], rows[later], values[later], rank))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return np.asarray(sorted_[pairs], np.int64)


def _kept(rows: Rows, columns: Rows, products: npt.NDArray[np.float32], rank: Rows) -> Rows:
    """Returns (row, column) of each row's nearest, and of its first by `rank`."""
    nearest = np.lexsort((rank[columns], -products, rows))
    first = np.lexsort((rank[columns], rows))
    chosen = np.concatenate([_leading(nearest, rows, _NEAREST), _leading(first, rows, _FIRST)])
    return np.column_stack([rows[chosen], columns[chosen]])


def _leading(order: Rows, rows: Rows, most: int) -> Rows:
    """Returns of an order that goes by rows the first `most` of each row."""
    ordered = rows[order]
    return order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < most]


def _signs(hashes: Hashes) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, 64]`: 1 for a bit that is set, -1 for one that isn't."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
