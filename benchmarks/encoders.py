"""How well each family's neighbours share the label, on labelled collections: which encoder is worth serving.

  make bench NAME=encoders SCALE=small                                   the demo's digits, four families, seconds
  python -m benchmarks.encoders --data mnist/ --data fashion-mnist/      folders train/ and test/, or IDX files
  python -m benchmarks.encoders --data mnist/ --families ours,pca --minutes 20 --config configs/mnist.yaml

Each is trained by the pipeline's trainer on the train part without labels (`cnn` alone reads them), exported, and
asked by its SavedModel. Database: the train part; queries: the test part, whole; search exact, by cosine; 95%
confidence by bootstrap over queries. The second table asks with copies that are shifted, rotated, noised, cropped
and compressed. With --held-out some of the train part ask instead: recipes are chosen by these.
`euclidean` rows are pixels and PCA as others publish them, to see that the metrics are theirs.
Writes results/encoders-<collection>.json and .md; with --add beside the rows of earlier runs that are there.
"CPU min" is the process's CPU time in training, of all threads: on two free cores it takes half as many minutes.
"""

import argparse
import dataclasses
import gc
import json
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
INTERVALS, COMMAND = "intervals", "command"
_BESIDE = (INTERVALS, COMMAND)  # of a row, too long for a table
# kind -> metric -> mean
Altered = dict[str, dict[str, float]]
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
    """Returns the config a family is trained by: its recipe's, or the defaults."""
    overrides = overrides if path else [f"encoder.family={family}", *overrides]
    config = configuration.load(str(path) if path else None, overrides)
    shape = collection.shape
    sized = dataclasses.replace(config.encoder, height=shape.height, width=shape.width, channels=shape.channels)
    return dataclasses.replace(config, encoder=sized)


def measure(
    config: configuration.PipelineConfig, collection: Collection, minutes: float, altered: int, *, codes: bool = False
) -> tuple[list[dict[str, Any]], Altered]:
    """Returns the row of one family on one collection, and its scores for each kind of altered queries.

    codes: with a second row, of its embeddings if the family is binary, else of their signs as codes.
    """
    keras.backend.clear_session()
    gc.collect()
    began, busy = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        encoder, epochs = train(config, collection, pathlib.Path(scratch), minutes)
        trained = {"epochs": epochs, "CPU min": (time.process_time() - busy) / 60.0}
        trained["training s"] = time.perf_counter() - began
        found = scores(encoder, collection, altered, codes=codes)
        error = reconstruction_error(encoder, collection.test.images)
    family, dimension, binary = config.encoder.family, encoder.info.dimension, config.encoder.family in BINARY
    rows = [_row(family, dimension, found["clean"], bits=binary) | {"MSE": error, **trained}]
    if codes:
        rows.append(_row(family, dimension, found["other"], bits=not binary))
    return rows, {kind: of.means() for kind, of in found.items() if kind not in ("clean", "other")}


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


def _row(family: str, dimension: int, found: metrics.LabelScores, *, bits: bool = False) -> dict[str, Any]:
    means = found.means()
    row: dict[str, Any] = {"family": family, "dimension": f"{dimension} bits" if bits else dimension}
    row |= {title: means[name] for name, title in SHOWN.items()}
    return row | {INTERVALS: {SHOWN[n]: i for n, i in found.intervals(seed=SEED).items() if n in SHOWN}}


def markdown(rows: list[dict[str, Any]], altered: dict[str, Altered]) -> str:
    """Returns both tables, and the commands that made them. altered: by what a row is called."""
    titles = ["row", "dimension", *SHOWN.values(), "MSE", "epochs", "CPU min"]
    table = []
    for row in rows:
        cells = [called(row), str(row["dimension"])]
        cells += ["{:.3f} ({:.3f} to {:.3f})".format(row[t], *row[INTERVALS][t]) for t in SHOWN.values()]
        cells.append(f"{row['MSE']:.4f}" if row.get("MSE") is not None else "")
        cells.append(str(row.get("epochs") or ""))
        cells.append(f"{row['CPU min']:.1f}" if "CPU min" in row else "")
        table.append(cells)
    kinds = list(next(iter(altered.values())))
    copies = [[name, *(f"{of[kind]['precision_at_10']:.3f}" for kind in kinds)] for name, of in altered.items()]
    commands = "".join(f"    {command}\n" for command in dict.fromkeys(row[COMMAND] for row in rows))
    below = f"P@10 of altered queries:\n\n{_table(['row', *kinds], copies)}"
    return f"{_table(titles, table)}\n{below}\n{commands}"


def called(row: dict[str, Any]) -> str:
    """Returns what tells a row from the others: its recipe or its family, and the dimension."""
    return f"{row.get('recipe') or row['family']}, {row['dimension']}"


def earlier(path: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, Altered]]:
    """Returns the rows and altered scores that a results file has, nothing where there is none."""
    if not path.exists():
        return [], {}
    value = json.loads(path.read_text())
    rows = [row | {beside: value[beside][called(row)] for beside in _BESIDE} for row in value["rows"]]
    return rows, value["altered"]


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("small", "full"), default="full", help="small: a quick look, as in CI")
    parser.add_argument(
        "--data", "--images", type=pathlib.Path, action="append", help="a labelled collection; repeatable"
    )
    parser.add_argument("--families", help="names, with commas between (default: those of --config, or all)")
    parser.add_argument("--minutes", type=float, default=15.0, help="most minutes a family is trained on a collection")
    parser.add_argument("--altered", type=int, default=2_000, help="test images that are asked for again, altered")
    parser.add_argument("--queries", type=int, default=0, help="only so many of the test images ask (default: all)")
    parser.add_argument("--held-out", type=int, default=0, help="so many of the train part ask, the test part doesn't")
    parser.add_argument(
        "--config", type=pathlib.Path, action="append", default=[], help="the recipe of its family; repeatable"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option, for all families"
    )
    parser.add_argument("--euclidean", action="store_true", help="rows of pixels and PCA-32 by Euclidean distance")
    parser.add_argument("--codes", action="store_true", help="also the signs of embeddings, as codes, and the reverse")
    parser.add_argument("--add", action="store_true", help="keep the rows of other runs that the results' file has")
    parser.add_argument("--name", default="", help="of the results (default: encoders-<collection>)")
    parser.add_argument("--label", default="", help="of the row (default: of its recipe, or its family)")
    flags = parser.parse_args()
    if flags.scale == "full" and not flags.data:
        parser.error("--data must name a labelled collection: a folder with train/ and test/, or IDX files.")
    with tempfile.TemporaryDirectory() as scratch:
        if flags.scale == "small":
            collections = [_small(pathlib.Path(scratch))]
            flags.families, flags.altered = ",".join(SMALL), 50
            flags.set = ["training.epochs=1", "training.min_steps=20", "encoder.dimension=16", "encoder.filters=[8]"]
        else:
            collections = [_asked(read(folder), flags.queries, flags.held_out) for folder in flags.data]
    folder = RESULTS if flags.scale == "full" else RESULTS / "small"
    for collection in collections:
        name = flags.name or f"encoders-{collection.name}"
        command = f"python -m benchmarks.encoders --data {collection.name} {_said(flags)}"
        rows, altered = earlier(folder / f"{name}.json") if flags.add else ([], {})
        if flags.scale == "full" and flags.euclidean:
            rows = _beside(rows, [row | {COMMAND: command} for row in euclidean(collection)])
        for family, path in _chosen(flags):
            config = recipe(family, collection, path, flags.set)
            measured, kinds = measure(config, collection, flags.minutes, flags.altered, codes=flags.codes)
            label = flags.label or (path.stem if path else "")
            measured = [row | {"recipe": label, COMMAND: command} for row in measured]
            rows, altered = _beside(rows, measured), altered | {called(measured[0]): kinds}
            # After each of them: what takes hours may be interrupted.
            shown = [{title: of for title, of in row.items() if title not in _BESIDE} for row in rows]
            beside = {what: {called(row): row[what] for row in rows} for what in _BESIDE}
            report(name, flags.scale, shown, [], altered=altered, **beside)
            (folder / f"{name}.md").write_text(markdown(rows, altered))


def _beside(rows: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns both, where two are called the same the new one."""
    return [row for row in rows if called(row) not in map(called, new)] + new


def _asked(collection: Collection, queries: int, held_out: int) -> Collection:
    if held_out:
        test, train = collection.train.divided(held_out)
        collection = Collection(collection.name, train, test)
    return dataclasses.replace(collection, test=collection.test.first(queries)) if queries else collection


def _chosen(flags: argparse.Namespace) -> list[tuple[str, pathlib.Path | None]]:
    """Returns what is trained: family and recipe, None for the defaults."""
    own = [(configuration.load(str(path)).encoder.family, path) for path in flags.config]
    if flags.families is None and own:
        return list(own)
    return [(name, dict(own).get(name)) for name in (flags.families or ",".join(FAMILIES)).split(",")]


def _said(flags: argparse.Namespace) -> str:
    words = [f"--families {flags.families}"] if flags.families else []
    words += [f"--config {path}" for path in flags.config]
    words += [f"--minutes {flags.minutes:g}", f"--altered {flags.altered}"]
    words += [f"--queries {flags.queries}"] if flags.queries else []
    words += [f"--held-out {flags.held_out}"] if flags.held_out else []
    words += ["--codes"] if flags.codes else []
    words += [f"--label '{flags.label}'"] if flags.label else []
    return " ".join(words + [f"--set {option}" for option in flags.set])


def _small(folder: pathlib.Path) -> Collection:
    every = split(digits(folder), "digits", 3_500)
    return Collection(every.name, every.train, every.test.first(100))


if __name__ == "__main__":
    main()
