"""Finds the size and channels that a network should see, where the config leaves them to the images."""

import dataclasses
import hashlib
import heapq
import logging
import statistics
from collections.abc import Iterator

from components.ingest.archives import read_members
from components.ingest.listing import Entry, Source, open_file
from components.ingest.shards import IngestOptions, list_entries
from pipeline.config import PipelineConfig
from serving.images import CanonicalImage, ImageError, ImageLimits, canonicalize

SAMPLE = 200
SMALLEST, LARGEST = 16, 64

logger = logging.getLogger(__name__)


def with_image_shape(config: PipelineConfig) -> PipelineConfig:
    """Returns `config` with encoder.height, width and channels set: those left 0 are found from a sample of images.

    Where no image can be read they become the smallest; ingest then says what is wrong with the collection.
    """
    encoder = config.encoder
    if encoder.height and encoder.width and encoder.channels:
        return config
    ingest = config.ingest
    options = IngestOptions(span_pattern=ingest.span_pattern or None)
    limits = ImageLimits(max_bytes=ingest.max_bytes, max_pixels=ingest.max_pixels, max_side=ingest.max_side)
    height, width, channels = shape_of(list(_sample(options.source(ingest.images), limits)))
    found = dataclasses.replace(
        encoder,
        height=encoder.height or height,
        width=encoder.width or width,
        channels=encoder.channels or channels,
    )
    logger.info("the network sees %d x %d pixels, %d channels", found.height, found.width, found.channels)
    return dataclasses.replace(config, encoder=found)


def shape_of(images: list[CanonicalImage]) -> tuple[int, int, int]:
    """Returns (height, width, channels): the median size, shrunk to at most 64 pixels; 3 where any is coloured.

    Larger images are worth little to a small autoencoder and cost a CPU much; the config can say otherwise.
    """
    if not images:
        return SMALLEST, SMALLEST, 1
    height = statistics.median(image.height for image in images)
    width = statistics.median(image.width for image in images)
    scale = min(1.0, LARGEST / max(height, width))
    channels = max(image.channels for image in images)
    return max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale)), channels


def _sample(source: Source, limits: ImageLimits) -> Iterator[CanonicalImage]:
    # By a hash of the id: the same images each time, from all over the collection, with only their names in memory.
    usable = (entry for entry in list_entries(source) if entry.is_claim and entry.reason is None)
    chosen = heapq.nsmallest(SAMPLE, usable, key=lambda entry: hashlib.sha256(entry.item_id.encode()).digest())
    for data in _read(source, chosen, limits):
        try:
            yield canonicalize(data, limits)
        except ImageError as error:
            logger.debug("not in the sample: %s", error)


def _read(source: Source, entries: list[Entry], limits: ImageLimits) -> Iterator[bytes]:
    if source.kind == "archive":
        members = read_members(source.uri, sorted(entries, key=lambda entry: entry.place), limits.max_bytes)
        yield from (data for _, data in members if data is not None)
        return
    for entry in entries:
        try:
            with open_file(entry.uri) as file:
                yield file.read(limits.max_bytes + 1)
        except OSError as error:
            logger.debug("not in the sample: %s", error)
