"""Which contents may be near-duplicates: those whose hashes have a byte in common, and differ in few bits.

Hashes that differ in d of 64 bits have one of their eight bytes in common for every d < 8, and nearly always for d up
to 10 (97 % of pairs at 10, were the bits to differ at random): banding, as locality-sensitive hashing has it
(P. Indyk, R. Motwani, STOC 1998). What shares a byte is a bucket, and no bucket is compared in full when it is large:
its hashes are sorted, and each is compared with those that come next. So the work grows with the number of contents.
"""

import numpy as np
import numpy.typing as npt

from components.duplicates.perceptual_hash import Hashes

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
    hashes, order = hashes[sorted_], order[sorted_]
    bits = _signs(hashes)
    found = []
    for start in range(0, len(hashes), _BLOCK):
        end = min(start + 2 * _BLOCK, len(hashes))
        rows = slice(start, min(start + _BLOCK, len(hashes)))
        # The product of two vectors of signs is 64 less twice the number that differ.
        differing = (64 - bits[rows] @ bits[start:end].T) / 2
        np.fill_diagonal(differing, np.inf)
        found.append(_kept(differing, order[start:end], hamming) + start)
        # The next block has been compared with this one, from this side only.
        later = differing[:, _BLOCK:]
        if later.size:
            pairs = _kept(later.T, order[rows], hamming)
            found.append(np.column_stack([pairs[:, 0] + start + _BLOCK, pairs[:, 1] + start]))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.asarray(sorted_[np.unique(pairs, axis=0)], np.int64)


def _kept(differing: npt.NDArray[np.float32], order: Hashes, hamming: int) -> Rows:
    """Returns (row, column) of those that are near, of each row the nearest and the first. differing: `[A, B]`."""
    near = differing <= hamming
    rows = np.flatnonzero(near.any(axis=1))
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    rank = np.empty(len(order), np.int64)
    rank[np.argsort(order, kind="stable")] = np.arange(len(order))
    some = near[rows]
    found = []
    for values, most in ((differing[rows] * len(order) + rank, _NEAREST), (np.broadcast_to(rank, some.shape), _FIRST)):
        values = np.where(some, values, np.inf)
        columns = np.argpartition(values, min(most, values.shape[1]) - 1, axis=1)[:, :most]
        places = np.take_along_axis(some, columns, axis=1)
        chosen = np.nonzero(places)
        found.append(np.column_stack([rows[chosen[0]], columns[chosen]]))
    return np.unique(np.concatenate(found), axis=0)


def _signs(hashes: Hashes) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, 64]`: 1 for a bit that is set, -1 for one that isn't."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
