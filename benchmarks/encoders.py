"""How well each family's neighbours share the label, on labelled collections: which encoder is worth serving.

  make bench NAME=encoders SCALE=small                                   the demo's digits, four families, seconds
  python -m benchmarks.encoders --data mnist/ --data fashion-mnist/      folders train/ and test/, or IDX files
  python -m benchmarks.encoders --data mnist/ --families ours,pca --minutes 20 --config configs/mnist.yaml

Each is trained by the pipeline's trainer on the train part without labels (`cnn` alone reads them), exported, and
asked by its SavedModel. Database: the train part; queries: the test part, whole; search exact, by cosine; 95%
confidence by bootstrap over queries. The second table asks with copies that are shifted, rotated, noised, cropped
and compressed.
`euclidean` rows are pixels and PCA as others publish them, to see that the metrics are theirs.
Writes results/encoders-<collection>.json and .md.
"""

import argparse
import dataclasses
import gc
import pathlib
import tempfile
import time
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from benchmarks._labelled import Collection, read, split
from benchmarks._results import RESULTS, digits, report
from benchmarks._trained import pixels_of, reconstruction_error, scores, train
from components.evaluation import metrics, references
from pipeline import config as configuration
from pipeline.encoder_config import BINARY, FAMILIES

SMALL = ("pca", "itq", "convolutional", "ours")
SEED = 20
INTERVALS = "intervals"
SHOWN = {
    "five_nn": "5-NN",
    "precision_at_10": "P@10",
    "map_at_r": "mAP@R",
    "map_at_1000": "mAP@1000",
    "ranking_at_1000": "ranking@1000",
}


def recipe(
    family: str, collection: Collection, path: pathlib.Path | None, overrides: list[str]
) -> configuration.PipelineConfig:
    """Returns the config a family is trained by: its file's (of one family), or the defaults."""
    config = configuration.load(str(path) if path else None, overrides)
    if path is None or config.encoder.family != family:
        config = configuration.load(None, [f"encoder.family={family}", *overrides])
    shape = collection.shape
    sized = dataclasses.replace(config.encoder, height=shape.height, width=shape.width, channels=shape.channels)
    return dataclasses.replace(config, encoder=sized)


def measure(config: configuration.PipelineConfig, collection: Collection, minutes: float, altered: int) -> Any:
    """Returns (row, altered row, markdown cells) of one family on one collection."""
    keras.backend.clear_session()
    gc.collect()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        encoder = train(config, collection, pathlib.Path(scratch), minutes)
        trained = time.perf_counter() - began
        found = scores(encoder, collection, altered)
        error = reconstruction_error(encoder, collection.test.images)
    row = _row(config.encoder.family, encoder.info.dimension, found["clean"])
    row |= {"MSE": error, "training s": trained}
    kinds = {kind: of.means() for kind, of in found.items() if kind != "clean"}
    return row, {"family": config.encoder.family} | {k: v["precision_at_10"] for k, v in kinds.items()}, kinds


def euclidean(collection: Collection) -> list[dict[str, Any]]:
    """Returns the rows of raw pixels and PCA-32 by Euclidean distance."""
    train_pixels, test_pixels = (pixels_of(p.images, collection.shape) for p in (collection.train, collection.test))
    pca = references.fit_pca(train_pixels, 32, seed=SEED)
    rows = []
    for name, embed in {"pixels (euclidean)": _flat, "pca-32 (euclidean)": pca.embed}.items():
        database = embed(train_pixels)
        queries, lifted = _lifted(embed(test_pixels), database)
        found = metrics.label_scores(queries, collection.test.labels, lifted, collection.train.labels)
        rows.append(_row(name, database.shape[1], found))
    return rows


def _flat(pixels: npt.NDArray[np.uint8]) -> metrics.Vectors:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255.0)


def _lifted(queries: metrics.Vectors, database: metrics.Vectors) -> tuple[metrics.Vectors, metrics.Vectors]:
    """Returns vectors whose inner product q x - |x|^2 / 2 ranks as the Euclidean distance of the given ones does."""
    scale = np.linalg.norm(database, axis=1).max()
    queries, database = queries / scale, database / scale
    half = np.square(database).sum(axis=1, keepdims=True) / 2.0
    return np.hstack([queries, np.ones((len(queries), 1), np.float32)]), np.hstack([database, -half])


def _row(family: str, dimension: int, found: metrics.LabelScores) -> dict[str, Any]:
    means = found.means()
    row: dict[str, Any] = {"family": family, "dimension": f"{dimension} bits" if family in BINARY else dimension}
    row |= {title: means[name] for name, title in SHOWN.items()}
    return row | {INTERVALS: {SHOWN[n]: i for n, i in found.intervals(seed=SEED).items() if n in SHOWN}}


def markdown(rows: list[dict[str, Any]], altered: list[dict[str, Any]], command: str) -> str:
    """Returns both tables."""
    titles = ["family", "dimension", *SHOWN.values(), "MSE", "training s"]
    table = []
    for row in rows:
        cells = [str(row["family"]), str(row["dimension"])]
        cells += ["{:.3f} ({:.3f} to {:.3f})".format(row[t], *row[INTERVALS][t]) for t in SHOWN.values()]
        cells.append(f"{row['MSE']:.4f}" if row.get("MSE") is not None else "")
        cells.append(f"{row['training s']:.0f}" if "training s" in row else "")
        table.append(cells)
    kinds = [name for name in altered[0] if name != "family"]
    copies = [[row["family"], *(f"{row[kind]:.3f}" for kind in kinds)] for row in altered]
    above = f"`{command}`\n\n{_table(titles, table)}"
    return f"{above}\nP@10 of altered queries:\n\n{_table(['family', *kinds], copies)}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("small", "full"), default="full", help="small: a quick look, as in CI")
    parser.add_argument(
        "--data", "--images", type=pathlib.Path, action="append", help="a labelled collection; repeatable"
    )
    parser.add_argument("--families", default=",".join(FAMILIES), help="names, with commas between")
    parser.add_argument("--minutes", type=float, default=15.0, help="most minutes a family is trained on a collection")
    parser.add_argument("--altered", type=int, default=2_000, help="test images that are asked for again, altered")
    parser.add_argument("--config", type=pathlib.Path, help="the recipe of its family; the others take the defaults")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option, for all families"
    )
    parser.add_argument("--name", default="", help="of the results (default: encoders-<collection>)")
    flags = parser.parse_args()
    if flags.scale == "full" and not flags.data:
        parser.error("--data must name a labelled collection: a folder with train/ and test/, or IDX files.")
    with tempfile.TemporaryDirectory() as scratch:
        if flags.scale == "small":
            collections = [_small(pathlib.Path(scratch))]
            flags.families, flags.altered = ",".join(SMALL), 50
            flags.set = ["training.epochs=1", "training.min_steps=20", "encoder.dimension=16", "encoder.filters=[8]"]
        else:
            collections = [read(folder) for folder in flags.data]
    for collection in collections:
        rows, altered, kinds = [], [], {}
        if flags.scale == "full":
            rows += euclidean(collection)
        for family in flags.families.split(","):
            config = recipe(family, collection, flags.config, flags.set)
            row, other, kinds[family] = measure(config, collection, flags.minutes, flags.altered)
            rows.append(row)
            altered.append(other)
            print(markdown(rows[-1:], altered[-1:], family), flush=True)
        name = flags.name or f"encoders-{collection.name}"
        command = f"python -m benchmarks.encoders --families {flags.families} --minutes {flags.minutes:g}"
        shown = [{title: value for title, value in row.items() if title != INTERVALS} for row in rows]
        intervals = {row["family"]: row[INTERVALS] for row in rows}
        report(name, flags.scale, shown, [], intervals=intervals, altered=kinds, command=command, options=flags.set)
        folder = RESULTS if flags.scale == "full" else RESULTS / "small"
        (folder / f"{name}.md").write_text(markdown(rows, altered, command))


def _small(folder: pathlib.Path) -> Collection:
    every = split(digits(folder), "digits", 3_500)
    return Collection(every.name, every.train, every.test.first(100))


if __name__ == "__main__":
    main()
