"""What a reindex costs where little has changed, beside building everything anew.

  make bench NAME=reindex IMAGES=mnist/train/      60,000 images, 1 % of them changed
  make bench NAME=reindex SCALE=small              600 of the demo's digits

Three runs of `lookalike reindex`, each a process as a scheduler starts it: with an encoder that has embedded nothing
yet, so that everything is read and embedded; with 1 % of the images changed, new or gone, and all others replaced by
zeros under their old size and time, so that a run which opened them would be refused; and with nothing changed at all.
Seconds of ingest and embed are those that the components log: without the start of Python and TensorFlow, and less the
loading of the encoder.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks._encoders import DIGIT, MODEL, write_encoder
from benchmarks._releases import make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report
from serving.release.layout import encoder_folder

_BASE_ITEMS = 64
_INGESTED = re.compile(r"ingested \d+ items from .* in ([\d.]+) s")
_EMBEDDED = re.compile(r"embedded \d+ items in ([\d.]+) s")
_LOADED = re.compile(r"loaded the encoder .* in ([\d.]+) s")


def copy_images(source: pathlib.Path, target: pathlib.Path, count: int | None) -> list[pathlib.Path]:
    """Copies `count` of the images, or all, spread evenly; returns the copies."""
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    chosen = files if count is None else [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    copies = []
    for file in chosen:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copies.append(copy)
    return copies


def altered(data: pathlib.Path, target: pathlib.Path, how: Image.Transpose) -> None:
    """Writes the image at `data` turned or mirrored to `target`."""
    with Image.open(data) as image:
        image.transpose(how).save(target)


def change(files: list[pathlib.Path]) -> dict[str, int]:
    """Changes half a percent of the files, adds and deletes a quarter each, and spoils all others; returns counts."""
    quarter = max(1, len(files) // 400)
    order = np.random.default_rng(0).permutation(len(files))
    chosen = [files[i] for i in order[: 3 * quarter]]
    for number in range(quarter):
        altered(chosen[number], chosen[number].with_name(f"new-{number}.png"), Image.Transpose.TRANSPOSE)
    for file in chosen[: 2 * quarter]:
        altered(file, file, Image.Transpose.ROTATE_180)
    for file in chosen[2 * quarter :]:
        file.unlink()
    for file in set(files) - set(chosen):
        stat = file.stat()
        file.write_bytes(bytes(stat.st_size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return {"changed": 2 * quarter, "new": quarter, "removed": quarter, "unchanged": len(files) - 3 * quarter}


def reindex(root: pathlib.Path, name: str, *flags: str) -> dict:
    """Runs the command; returns its summary with `wall`, and `work`: seconds of ingest and embed, start-up apart."""
    command = [sys.executable, "-m", "serving.cli", "reindex", "--images", str(root / "images")]
    command += ["--root", str(root / "runs"), "--serving-root", str(root / "serving")]
    command += ["--summary", str(root / f"{name}.json"), *flags]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    seconds = [sum(map(float, expression.findall(done.stderr))) for expression in (_INGESTED, _EMBEDDED, _LOADED)]
    ingest, embed, load = seconds
    summary = json.loads((root / f"{name}.json").read_text())
    print(f"  {name}: {wall:.1f} s, ingest {ingest:.2f}, embed {embed:.2f} of which loading {load:.2f}", flush=True)
    return {**summary, "wall": wall, "ingest": ingest, "embed": embed - load, "work": ingest + embed - load}


def prepare(root: pathlib.Path, images: list[bytes]) -> int:
    """Publishes a release of other items by another encoder; returns the version of the encoder to reindex with."""
    embeddings, _ = make_embeddings(_BASE_ITEMS, 1)
    items = make_items(_BASE_ITEMS)
    body = write_body(root / "body", items, embeddings)
    write_encoder(root / "first", images, dimension=embeddings.shape[1], shape=DIGIT)
    version = publish_release(root / "serving", root / "first", body, items, embeddings).manifest.encoder.version + 1
    write_encoder(root / "serving" / encoder_folder(MODEL, version), images, dimension=64, seed=1, shape=DIGIT)
    return version


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        source = flags.images or digits(root / "digits")
        files = copy_images(source, root / "images", 600 if flags.scale == "small" else None)
        version = prepare(root, [file.read_bytes() for file in files[:16]])
        full = reindex(root, "everything", "--encoder", str(version), "--allow-removal", "1")
        expected = change(files)
        changed = reindex(root, "1 % changed")
        unchanged = reindex(root, "nothing changed")

    told = changed["counts"]
    if {name: told[name] for name in expected} != expected or unchanged["status"] != "unchanged":
        raise SystemExit(f"expected {expected}, the summaries say {told} and {unchanged['status']}.")
    encoded = expected["changed"] + expected["new"]
    # What was read or embedded beyond what has changed.
    needless = told["read"] - encoded + max(0, told["encoded"] - encoded) + unchanged["counts"]["read"]
    rows = [
        {
            "run": name,
            "read": run["counts"]["read"],
            "encoded": run["counts"]["encoded"],
            "ingest s": run["ingest"],
            "embed s": run["embed"],
            "wall s": run["wall"],
        }
        for name, run in (("everything", full), ("1 % changed", changed), ("nothing changed", unchanged))
    ]
    ratio = changed["work"] / full["work"]
    goals = [Goal("unchanged images read or encoded", needless, 0, at_most=True)]
    if flags.scale == "full":
        goals.append(Goal("ingest and embed, beside everything", ratio, 0.05, at_most=True))
    report(
        *("reindex", flags.scale, rows, goals),
        images=len(files),
        changes=expected,
        ratio=ratio,
        components={name: run["components"] for name, run in (("everything", full), ("changed", changed))},
    )


if __name__ == "__main__":
    main()
