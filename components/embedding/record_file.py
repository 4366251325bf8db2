"""Reads the TFRecord files of examples without TensorFlow, whose own reader takes longer to set up than a small reindex
has to read.

The format (tensorflow/core/lib/io/record_writer.h): for each record its length, uint64, a checksum of that, uint32, the
bytes, and a checksum of these, uint32; all little-endian.
"""

import struct
import zlib
from collections.abc import Iterator

from components.ingest.listing import open_file

_HEAD = struct.Struct("<QI")
_FOOT_BYTES = 4
_READ_BUFFER = 2**20
_GZIP = 16 + zlib.MAX_WBITS


def iterate_records(uri: str) -> Iterator[bytes]:
    """Yields the records of the gzipped TFRecord file at `uri`, in order.

    Gzip's own checksum is what tells of damage: EOFError or zlib.error, or ValueError where a record is cut.
    """
    with open_file(uri) as file:
        # Not gzip.open, which unpacks 8 KiB at a time.
        unpacker = zlib.decompressobj(_GZIP)
        data, start = b"", 0
        while piece := file.read(_READ_BUFFER):
            data, start = data[start:] + unpacker.decompress(piece), 0
            while len(data) - start >= _HEAD.size:
                length, _ = _HEAD.unpack_from(data, start)
                end = start + _HEAD.size + length
                if end + _FOOT_BYTES > len(data):
                    break
                yield data[start + _HEAD.size : end]
                start = end + _FOOT_BYTES
        if not unpacker.eof:
            raise EOFError(f"{uri} must end with gzip's checksum, it is cut.")
        if start != len(data) or unpacker.unused_data:
            left = len(data) - start + len(unpacker.unused_data)
            raise ValueError(f"{uri} must end with a whole record, {left} bytes are left.")
