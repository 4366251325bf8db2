"""A serving root of pictures, with real releases whose embeddings are those of the fake model server."""

import pathlib
import shutil
from typing import Any

import numpy as np

from serving.release import layout
from serving.release.current import write_current
from serving.release.encoder_info import Probe
from serving.release.items import Item
from serving.storage import open_store
from tests.serving.fake_model_server import embed
from tests.serving.pictures import png
from tests.serving.release_builder import publish_release


class Collection:
    """Publishes beside the root and copies into it, so that a release can be spoiled before anyone reads it."""

    def __init__(self, root: pathlib.Path, *, dimension: int = 16) -> None:
        self.root = root
        self.dimension = dimension
        self.images = {f"item-{i}.png": png(i) for i in range(40)}
        self.groups: dict[str, str] = {}  # duplicate groups by item id
        self.current = ""
        self._staging = root.parent / f"{root.name}.staging"
        self._releases: dict[str, tuple[list[str], np.ndarray]] = {}
        root.mkdir(parents=True, exist_ok=True)

    def publish(
        self, *, seed: int = 0, count: int | None = None, flip: str = "", shards: int = 2, **options: Any
    ) -> str:
        """Publishes the first `count` images, embedded with the weights of `seed`; returns the release id.

        Each seed is an encoder version of its own, from 1 on. flip: a part of the release to flip a byte in.
        options: for `publish_release`.
        """
        names = list(self.images)[:count]
        embeddings = embed([self.images[name] for name in names], seed=seed, dimension=self.dimension)
        probes = [png(9000), png(9001)]
        answers = embed(probes, seed=seed, dimension=self.dimension)
        release_id = publish_release(
            self._staging,
            self._staging / f"work-{len(self._releases)}",
            items=[self._item(name) for name in names],
            embeddings=embeddings,
            shards=shards,
            encoder_seed=seed,
            probes=[Probe(image, answer) for image, answer in zip(probes, answers, strict=True)],
            clock=lambda: 1.0,
            **options,
        ).release_id
        self._releases[release_id] = names, embeddings
        shutil.copytree(self._staging / "encoders", self.root / "encoders", dirs_exist_ok=True)
        folder = self.root / layout.release_folder(release_id)
        shutil.copytree(self._staging / layout.release_folder(release_id), folder)
        if flip:
            _flip_byte(folder / flip)
            write_current(open_store(self.root), release_id)
        else:
            self.point_at(release_id)
        return release_id

    def point_at(self, release_id: str) -> None:
        """Makes a release the current one."""
        self.current = release_id
        write_current(open_store(self.root), release_id)

    def nearest(self, query: np.ndarray, k: int, *, release_id: str = "") -> list[tuple[str, float]]:
        """Returns ids and exact cosines, best first, by brute force."""
        names, embeddings = self._releases[release_id or self.current]
        scores = embeddings.astype(np.float64) @ query.astype(np.float64)
        best = sorted(zip(names, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        return best[:k]

    def _item(self, name: str) -> Item:
        number = int(name.removeprefix("item-").removesuffix(".png"))
        attributes = {"label": str(number % 10), "number": number, "half": number / 2, "odd": number % 2 == 1}
        thumbnail, group = b"thumbnail of " + name.encode(), self.groups.get(name, "")
        return Item(name, f"file:///{name}", f"{number:064x}", 16, 16, attributes, thumbnail, duplicate_group=group)


def _flip_byte(folder: pathlib.Path) -> None:
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
