"""Groups the near-duplicates of a collection with Beam, through all shards of the index.

read contents   per part: the hash of what each looks like, where it has none of the thumbnail
pair            per piece of the sha256s: copies; per byte of the hashes: what differs in few bits
read first      per part: the vectors of the first of each pair, sent to where the second is
verify          per part: the cosines
write groups    of all pairs: leaders, and what is near them; the report
"""

import apache_beam as beam
import numpy as np

from components.duplicates.flow import GroupingOptions, Verified
from components.duplicates.steps import PairCopies, PairLooks, ReadContents, ReadFirst, Verify, WriteGroups

_NO_PAIRS = Verified({}, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


class FindDuplicates(beam.PTransform):
    """The pipeline's begin to (shard, PartHashes | PartGroups) of every part; writes the report of the groups."""

    def __init__(self, options: GroupingOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        options = self._options
        read = (
            begin
            | "Parts" >> beam.Create(range(options.parts))
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadContents" >> beam.ParDo(ReadContents(options)).with_outputs("copies", "looks", main="hashes")
        )
        copies = read.copies | "GroupCopies" >> beam.GroupByKey() | "PairCopies" >> beam.ParDo(PairCopies())
        looks = read.looks | "GroupLooks" >> beam.GroupByKey() | "PairLooks" >> beam.ParDo(PairLooks(options))
        verified = (
            (copies, looks)
            | "FlattenPairs" >> beam.Flatten()
            | "GroupByFirst" >> beam.GroupByKey()
            | "ReadFirst" >> beam.ParDo(ReadFirst(options))
            | "GroupBySecond" >> beam.GroupByKey()
            | "Verify" >> beam.ParDo(Verify(options))
        )
        # There is a report also where there is no pair.
        none = begin | "NoPairs" >> beam.Create([(0, _NO_PAIRS)])
        groups = (
            (verified, none)
            | "FlattenVerified" >> beam.Flatten()
            | "GroupVerified" >> beam.GroupByKey()
            | "WriteGroups" >> beam.ParDo(WriteGroups(options))
        )
        return (read["hashes"], groups) | "FlattenMarks" >> beam.Flatten()
