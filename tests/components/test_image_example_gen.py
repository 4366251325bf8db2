"""From a collection to examples and a report: what is written, what is skipped, and what a cache answers."""

import collections
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2
from PIL import Image
from tfx.components import StatisticsGen
from tfx.components.example_gen import component as example_gen
from tfx.components.example_gen import input_processor
from tfx.orchestration import metadata, pipeline
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.proto import example_gen_pb2
from tfx.utils import proto_utils

from components import features
from components.image_example_gen import ImageExampleGen, ingest, listing_digest
from components.ingest.listing import ListingError
from components.ingest.notes import read_contents_of
from components.ingest.report import IngestError
from components.ingest.shards import SPLITS, IngestOptions, shard_file
from pipeline.beam_options import DIRECT_ARGS, DIRECT_RUNNER, with_nothing_staged
from serving.images import ImageLimits
from serving.release.layout import shard_of
from serving.storage import open_store

Ingested = collections.namedtuple("Ingested", "report items skipped")
Record = collections.namedtuple("Record", "split shard values")


def png(seed, side=12):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT" + bytes(4)


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def values_of(example):
    found = {}
    for name, feature in example.features.feature.items():
        (value,) = getattr(feature, feature.WhichOneof("kind")).value
        found[name] = value
    return found


def read_records(examples, shards):
    for split in SPLITS:
        for shard in range(shards):
            file = f"{examples}/Split-{split}/{shard_file(shard, shards)}"
            for serialized in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
                yield Record(split, shard, values_of(tf.train.Example.FromString(serialized)))


def run(images, out, **options):
    """Ingests `images` below the folder `out`; returns the report, the records by item id, and the skipped files."""
    options = IngestOptions(**{"shards": 2, **options})
    examples, report = str(out / "examples"), str(out / "report")
    pipeline = beam.Pipeline(DIRECT_RUNNER)
    value = ingest(options.source(str(images)), options, examples, report, pipeline)
    assert json.loads((out / "report/report.json").read_text()) == value
    assert sorted(path.name for path in (out / "report").iterdir()) == ["report.json", "skipped.jsonl"]
    skipped = [json.loads(line) for line in (out / "report/skipped.jsonl").read_text().splitlines()]
    items = collections.defaultdict(list)
    for record in read_records(examples, options.shards):
        items[record.values[features.ITEM_ID].decode()].append(record)
    for shard in range(options.shards):
        # The first record of each item, in the order of the files.
        mine = [records[0].values[features.SHA256].decode() for records in items.values() if records[0].shard == shard]
        listed = read_contents_of(open_store(examples), shard, options.shards)
        assert [bytes(key).hex() for key in listed] == mine
    for split in SPLITS:
        names = sorted(path.name for path in (out / "examples" / f"Split-{split}").iterdir())
        assert names == [shard_file(shard, options.shards) for shard in range(options.shards)]
    return Ingested(value, dict(items), skipped)


def test_a_folder_becomes_examples(tmp_path):
    files = {f"{number % 3}/{number}.png": png(number) for number in range(60)}
    write(tmp_path / "in", files)
    report, items, skipped = run(tmp_path / "in", tmp_path / "out", shards=3)
    assert set(items) == set(files) and not skipped
    for item_id, (record,) in items.items():
        assert record.shard == shard_of(item_id, 3)
        assert record.values == {
            features.ITEM_ID: item_id.encode(),
            features.IMAGE: files[item_id],
            features.SHA256: hashlib.sha256(files[item_id]).hexdigest().encode(),
            features.URI: str(tmp_path / "in" / item_id).encode(),
            features.WIDTH: 12,
            features.HEIGHT: 12,
        }
    by_split = collections.Counter(records[0].split for records in items.values())
    assert by_split["train"] + by_split["eval"] == 60 and by_split["eval"] > 0
    assert report["items"] == report["claimed"] == 60
    assert {split: report["splits"][split]["items"] for split in SPLITS} == by_split
    assert sum(report["splits"][split]["bytes"] for split in SPLITS) == sum(map(len, files.values()))
    assert report["reused_split"] is None
    assert report["listing_digest"] == listing_digest(IngestOptions().source(str(tmp_path / "in")))


def test_the_same_collection_gives_the_same_bytes(tmp_path):
    write(tmp_path / "in", {f"{number}.png": png(number) for number in range(20)})
    one, two = (run(tmp_path / "in", tmp_path / name, shards=2) for name in ("one", "two"))
    assert one == two
    for split in SPLITS:
        for shard in range(2):
            name = f"examples/Split-{split}/{shard_file(shard, 2)}"
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_fingerprint_names_the_data(tmp_path):
    folder = tmp_path / "in"
    write(folder, {f"{number}.png": png(number) for number in range(6)})
    seen = {run(folder, tmp_path / "0")[0]["data_fingerprint"]}
    # Neither the number of shards nor where it lies nor when it was written is part of the data.
    os.utime(folder / "0.png", ns=(1, 1))
    folder.rename(tmp_path / "moved")
    assert run(tmp_path / "moved", tmp_path / "1", shards=3)[0]["data_fingerprint"] in seen
    (tmp_path / "moved/0.png").rename(tmp_path / "moved/renamed.png")
    seen.add(run(tmp_path / "moved", tmp_path / "2")[0]["data_fingerprint"])
    write(tmp_path / "moved", {"1.png": png(99)})
    seen.add(run(tmp_path / "moved", tmp_path / "3")[0]["data_fingerprint"])
    assert len(seen) == 3


def test_identical_content_never_straddles_the_splits(tmp_path):
    write(tmp_path / "in", {f"{copy}/{number}.png": png(number) for number in range(20) for copy in range(3)})
    _, items, _ = run(tmp_path / "in", tmp_path / "out", eval_percent=50)
    splits = collections.defaultdict(set)
    for (record,) in items.values():
        splits[record.values[features.SHA256]].add(record.split)
    assert len(items) == 60 and all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)


@pytest.mark.parametrize(("eval_percent", "reused"), [(0, "eval"), (100, "train")])
def test_an_empty_split_reuses_the_other(tmp_path, eval_percent, reused):
    write(tmp_path / "in", {"only.png": png(0)})
    report, items, _ = run(tmp_path / "in", tmp_path / "out", eval_percent=eval_percent)
    assert report["reused_split"] == reused and report["items"] == 1
    assert report["splits"][reused]["items"] == 0
    first, second = items["only.png"]
    assert {first.split, second.split} == set(SPLITS) and first.values == second.values


def test_labels_come_only_when_asked_for(tmp_path):
    write(tmp_path / "in", {"train/cat/1.png": png(1), "2.png": png(2)})
    for label_from, label in ((None, None), ("folder", b"train"), ("parent", b"cat")):
        report, items, _ = run(tmp_path / "in", tmp_path / str(label_from), label_from=label_from)
        assert items["train/cat/1.png"][0].values.get(features.LABEL) == label
        assert features.LABEL not in items["2.png"][0].values
        assert report["labelled"] == (label is not None)
    with pytest.raises(ListingError, match="label_from"):
        IngestOptions(label_from="manifest").source("folder")


def test_a_manifest_gives_ids_labels_and_attributes(tmp_path):
    write(tmp_path, {"in/1.png": png(1), "in/2.png": png(2)})
    (tmp_path / "in/list.csv").write_text("uri,id,label,price,stock,name\n1.png,one,cat,1.5,3,\n2.png,two,,2,4,x\n")
    _, items, _ = run(tmp_path / "in/list.csv", tmp_path / "out", label_from="manifest")
    one, two = items["one"][0].values, items["two"][0].values
    assert one[features.LABEL] == b"cat" and features.LABEL not in two
    attribute = features.attribute_feature
    assert (one[attribute("price")], one[attribute("stock")]) == (1.5, 3)
    assert (two[attribute("price")], two[attribute("stock")], two[attribute("name")]) == (2.0, 4, b"x")
    assert attribute("name") not in one and isinstance(two[attribute("price")], float)
    assert one[features.URI].decode() == str(tmp_path / "in/1.png")
    _, items, _ = run(tmp_path / "in/list.csv", tmp_path / "unlabelled")
    assert features.LABEL not in items["one"][0].values


@pytest.mark.parametrize("name", ["in.zip", "in.tar", "in.tar.gz"])
def test_an_archive_holds_the_same_items_as_its_folder(tmp_path, name):
    files = {f"{number % 2}/{number}.png": png(number) for number in range(12)}
    write(tmp_path / "in", files)
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in files:
                archive.write(tmp_path / "in" / path, path)
    else:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(tmp_path / "in", ".")
    expected = run(tmp_path / "in", tmp_path / "folder", label_from="folder")
    found = run(tmp_path / name, tmp_path / "archive", label_from="folder")
    assert found.report["data_fingerprint"] == expected.report["data_fingerprint"]
    uri = found.items["0/0.png"][0].values[features.URI].decode()
    assert uri.endswith(f"0/0.png::{tmp_path / name}")


def test_a_later_span_updates_an_item(tmp_path):
    write(tmp_path / "in", {"span-1/a.png": png(1), "span-1/b.png": png(2), "span-2/a.png": png(3)})
    report, items, _ = run(tmp_path / "in", tmp_path / "out", span_pattern="span-{SPAN}")
    assert set(items) == {"a.png", "b.png"}
    assert items["a.png"][0].values[features.IMAGE] == png(3)
    assert report["spans"] == [1, 2] and report["updated_by_later_spans"] == 1
    report, items, _ = run(tmp_path / "in", tmp_path / "first", span_pattern="span-{SPAN}", last_span=1)
    assert items["a.png"][0].values[features.IMAGE] == png(1) and report["spans"] == [1]


def broken_files():
    whole = png(0, side=40)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    return {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"no image at all", "not-an-image"),
        "cut.png": (whole[: len(whole) // 2], "truncated"),
        "flipped.png": (bytes(flipped), "corrupt"),
        "large.png": (png(1, side=200), "too-large"),
        "wide.png": (png_header(30_000, 30_000), "too-many-pixels"),
        "photo.heic": (b"\0\0\0\x20ftypheic" + bytes(50), "format"),
    }


def test_broken_files_are_skipped_counted_and_listed(tmp_path):
    broken = broken_files()
    write(tmp_path / "in", {f"{number}.png": png(number) for number in range(10)})
    write(tmp_path / "in", {name: content for name, (content, _) in broken.items()})
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "in", {"README.txt": b"", ".DS_Store": b"", "bare": b"no image", "bare-image": png(77)})
    limits = ImageLimits(max_bytes=20_000)
    report, items, skipped = run(tmp_path / "in", tmp_path / "out", limits=limits, max_skipped_share=0.5)
    assert len(items) == 11 and "bare-image" in items
    reasons = {value["item_id"]: value["reason"] for value in skipped}
    expected = {name: reason for name, (_, reason) in broken.items()} | {"gone.png": "missing"}
    ignored = {"README.txt": "extension", ".DS_Store": "hidden", "bare": "not-an-image"}
    assert reasons == expected | ignored
    assert report["skipped"] == {"total": 8, "by_reason": dict.fromkeys(sorted(expected.values()), 1)}
    assert report["ignored"] == {"total": 3, "by_reason": {"extension": 1, "hidden": 1, "not-an-image": 1}}
    assert report["claimed"] == 11 + 8
    assert report["skipped_share"] == pytest.approx(8 / 19)
    assert [value["claimed_to_be_an_image"] for value in report["listed"]] == [True] * 8 + [False] * 3


def test_a_member_that_cannot_be_read_is_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", png(1))
        archive.writestr("2.png", png(2))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[60] ^= 255
    (tmp_path / "x.zip").write_bytes(data)
    _, items, skipped = run(tmp_path / "x.zip", tmp_path / "out", max_skipped_share=0.5)
    assert set(items) == {"2.png"} and [value["reason"] for value in skipped] == ["unreadable"]


def test_too_many_broken_files_fail_the_run_and_say_so(tmp_path):
    write(tmp_path / "in", {f"{number}.png": png(number) for number in range(99)})
    write(tmp_path / "in", {"broken.png": b"", "README.txt": b"a note is no image"})
    # One in a hundred is the default's limit, and not above it.
    assert run(tmp_path / "in", tmp_path / "at").report["skipped_share"] == 0.01
    write(tmp_path / "in", {"broken.jpg": b"text"})
    with pytest.raises(IngestError) as caught:
        run(tmp_path / "in", tmp_path / "above")
    message = str(caught.value)
    assert "2 of 101 images" in message and "(1.98%; at most 1.00% may be skipped" in message
    assert "empty: 1" in message and str(tmp_path / "in/broken.jpg") in message and "max_skipped_share" in message
    # The report is there for whoever wants to see all of them.
    report = json.loads((tmp_path / "above/report/report.json").read_text())
    assert report["skipped"]["total"] == 2
    assert len((tmp_path / "above/report/skipped.jsonl").read_text().splitlines()) == 3


def test_collections_without_images_say_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match=r"is empty\. Put images into it"):
        run(tmp_path / "empty", tmp_path / "1")
    write(tmp_path / "notes", {"a.txt": b"x", ".hidden/b.png": png(1)})
    with pytest.raises(IngestError, match=r"no image that can be used \(extension: 1, hidden: 1\)"):
        run(tmp_path / "notes", tmp_path / "2")
    write(tmp_path / "broken", {"a.png": b"x"})
    with pytest.raises(IngestError, match="no image that can be used"):
        run(tmp_path / "broken", tmp_path / "3", max_skipped_share=1.0)
    with pytest.raises(ListingError, match="must be a folder"):
        run(tmp_path / "missing", tmp_path / "4")
    (tmp_path / "empty.csv").write_text("uri\n")
    with pytest.raises(IngestError, match="is empty"):
        run(tmp_path / "empty.csv", tmp_path / "5")


def test_duplicate_ids_fail_and_are_named(tmp_path):
    write(tmp_path, {"in/1.png": png(1), "in/2.png": png(2)})
    (tmp_path / "in/list.csv").write_text("uri,id\n1.png,same\n2.png,same\n2.png,other\n")
    with pytest.raises(IngestError) as caught:
        run(tmp_path / "in/list.csv", tmp_path / "out")
    message = str(caught.value)
    assert "'same'" in message and str(tmp_path / "in/1.png") in message and str(tmp_path / "in/2.png") in message
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/../1.png", png(1))
        archive.writestr("1.png", png(2))
    with pytest.raises(IngestError, match=r"'1.png': zip://"):
        run(tmp_path / "x.zip", tmp_path / "zip")


def test_an_error_in_the_midst_of_a_listing_keeps_its_words(tmp_path):
    deep = "/".join("d" * 8)
    write(tmp_path / "in", {"1.png": png(1), f"{deep}/2.png": png(2)})
    with pytest.raises(Exception, match="at most 7 folders deep"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [{"shards": 0}, {"eval_percent": 101}, {"label_from": "x"}, {"max_skipped_share": 1.5}],
)
def test_options_are_validated(wrong):
    with pytest.raises(ValueError, match="must be"):
        IngestOptions(**wrong)


def test_options_survive_their_json():
    options = IngestOptions(ImageLimits(max_side=64, formats=("PNG",)), 3, 20, "folder", 0.5, "span-{SPAN}", 7)
    assert IngestOptions.from_json(options.to_json()) == options


def component(images, **options):
    return ImageExampleGen(str(images), code="code", **options)


def stock_fingerprint(component):
    """What TFX's own driver, the one that Kubeflow runs, takes for the state of a component's input."""
    config = proto_utils.json_to_proto(component.exec_properties["input_config"], example_gen_pb2.Input())
    base = component.exec_properties["input_base"]
    processor = input_processor.FileBasedInputProcessor(base, config.splits, None)
    return processor.get_input_fingerprint(*processor.resolve_span_and_version())


def test_kubeflow_gives_it_the_driver_of_a_file_based_example_gen(tmp_path):
    made = component("gs://bucket/images")
    assert isinstance(made, example_gen.FileBasedExampleGen)
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image="image"),
        output_filename=str(tmp_path / "p.json"),
    )
    runner.run(pipeline.Pipeline("ingest", "gs://bucket/root", components=[made]))
    job = json.loads((tmp_path / "p.json").read_text())
    (executor,) = job["pipelineSpec"]["deploymentSpec"]["executors"].values()
    assert "file_based_example_gen.driver" in " ".join(executor["container"]["lifecycle"]["preCacheCheck"]["command"])
    assert "components.image_example_gen.Executor" in executor["container"]["args"]
    outputs = job["pipelineSpec"]["components"]["ImageExampleGen"]["outputDefinitions"]["artifacts"]
    assert set(outputs) == {"examples", "report", "updates"}


def test_the_stock_driver_sees_nested_files_archives_and_what_a_manifest_names(tmp_path):
    write(tmp_path / "in", {"a/1.png": png(1), "a/b/c/d/e/f/g/2.png": png(2)})
    made = component(tmp_path / "in")
    seen = {stock_fingerprint(made)}
    for name in ("a/b/c/d/e/f/g/3.png", "a/4.png", "5.png"):
        write(tmp_path / "in", {name: png(3)})
        assert stock_fingerprint(made) not in seen
        seen.add(stock_fingerprint(made))
    write(tmp_path, {"x.zip": b"1"})
    before = stock_fingerprint(component(tmp_path / "x.zip"))
    write(tmp_path, {"x.zip": b"12", "y.zip": b"1"})
    assert stock_fingerprint(component(tmp_path / "x.zip")) != before
    write(tmp_path / "in", {"list.csv": b"uri\na/1.png\n"})
    before = stock_fingerprint(component(tmp_path / "in/list.csv"))
    write(tmp_path / "in", {"a/1.png": png(1, side=30)})
    assert stock_fingerprint(component(tmp_path / "in/list.csv")) != before


@pytest.mark.slow
def test_a_cache_answers_only_for_the_same_images_options_and_code(tmp_path):
    write(tmp_path / "in", {f"{number % 2}/{number}.png": png(number) for number in range(10)})
    config = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))

    def executions(code="one", statistics=False, **options):
        made = ImageExampleGen(str(tmp_path / "in"), code=code, **options)
        reader = StatisticsGen(examples=made.outputs["examples"])
        LocalDagRunner().run(
            pipeline.Pipeline(
                "ingest",
                str(tmp_path / "root"),
                components=[made, reader] if statistics else [made],
                enable_cache=True,
                metadata_connection_config=config,
                beam_pipeline_args=with_nothing_staged(DIRECT_ARGS),
            )
        )
        return len(list((tmp_path / "root/ImageExampleGen/examples").iterdir()))

    # TFX's own components read what it writes, some shards of which are empty.
    assert executions(statistics=True) == 1
    assert executions() == 1
    (tmp_path / "in/0/0.png").rename(tmp_path / "in/0/renamed.png")
    assert executions() == 2
    # The same size, in the same second.
    status = (tmp_path / "in/1/1.png").stat()
    (tmp_path / "in/1/1.png").write_bytes((tmp_path / "in/1/1.png").read_bytes())
    os.utime(tmp_path / "in/1/1.png", ns=(status.st_atime_ns, status.st_mtime_ns // 10**9 * 10**9 + 1))
    assert executions() == 3
    write(tmp_path / "in", {"new.png": png(99)})
    assert executions() == 4
    assert executions(code="two") == 5
    assert executions(code="two", label_from="folder") == 6
    assert executions() == 6

    store = metadata_store.MetadataStore(config)
    *_, examples = store.get_artifacts_by_type("Examples")
    assert json.loads(examples.properties["split_names"].string_value) == ["train", "eval"]
    assert examples.custom_properties["file_format"].string_value == "tfrecords_gzip"
    assert examples.custom_properties["payload_format"].string_value == "FORMAT_TF_EXAMPLE"
    reports = store.get_artifacts_by_type("components.IngestReport")
    report = json.loads((tmp_path / "root/ImageExampleGen/report" / reports[-1].uri / "report.json").read_text())
    assert examples.custom_properties["data_fingerprint"].string_value == report["data_fingerprint"]
    fingerprint = examples.custom_properties["input_fingerprint"].string_value
    assert fingerprint == f"listing:{report['listing_digest']}"

    # A run that fails is not answered from the cache when the collection is mended.
    write(tmp_path / "in", {"broken.png": b""})
    with pytest.raises(Exception, match="1 of 12 images"):
        executions()
    failed = [e for e in store.get_executions() if e.last_known_state == metadata_store_pb2.Execution.FAILED]
    assert len(failed) == 1
    (tmp_path / "in/broken.png").unlink()
    assert executions() == 6


PEAK = """
import pathlib, sys
import apache_beam as beam
from components.image_example_gen import ingest
from components.ingest.shards import IngestOptions
from pipeline.beam_options import DIRECT_RUNNER
images, out = sys.argv[1:]
options = IngestOptions()
report = ingest(options.source(images), options, out + "/e", out + "/r", beam.Pipeline(DIRECT_RUNNER))
# getrusage would also count this process's parent, before it became a Python of its own.
(peak,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(report["items"], peak.split()[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_collection(tmp_path):
    noise = np.random.default_rng(0)
    sizes, peaks = [], []
    for count in (2_000, 8_000):
        folder = tmp_path / f"in-{count}"
        for number in range(count):
            path = folder / str(number % 10) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (110, 110), noise.bytes(110 * 110)).save(path, compress_level=0)
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*.png")))
        command = [sys.executable, "-W", "ignore", "-c", PEAK, str(folder), str(tmp_path / f"out-{count}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        items, peak = done.stdout.split()
        assert int(items) == count
        peaks.append(int(peak) * 1024)
    assert peaks[1] <= 1.2 * peaks[0], peaks
    # The libraries alone take more than these images: so also less than half of what was added.
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 2, (peaks, sizes)
