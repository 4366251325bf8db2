import gzip
import zlib

import pytest
import tensorflow as tf

from components.embedding.record_file import iterate_records

_GZIP = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
# Shorter and longer than what is read at once.
RECORDS = [b"", b"a", *[bytes([n]) * 1000 for n in range(50)], b"long" * 2**19, b"last"]


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path), _GZIP) as writer:
        for record in records:
            writer.write(record)
    return str(path)


def test_records_are_those_that_tensorflow_wrote(tmp_path):
    assert list(iterate_records(write_records(tmp_path / "some.gz", RECORDS))) == RECORDS
    assert list(iterate_records(write_records(tmp_path / "none.gz", []))) == []


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "some.gz"
    write_records(path, RECORDS[:20])
    data = path.read_bytes()
    # The first byte of gzip's checksum.
    path.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    with pytest.raises(zlib.error, match="incorrect data check"):
        list(iterate_records(str(path)))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(EOFError):
        list(iterate_records(str(path)))
    path.write_bytes(gzip.compress(gzip.decompress(data)[:-1]))
    with pytest.raises(ValueError, match="must end with a whole record"):
        list(iterate_records(str(path)))
