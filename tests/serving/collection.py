"""A serving root of pictures, with real releases whose embeddings are those of the fake model server."""

import pathlib

import numpy as np

from serving.index import build_index, choose_parameters
from serving.release import layout
from serving.release.current import write_current
from serving.release.encoder_info import EncoderInfo, Probe, list_files, tree_digest
from serving.release.items import Item, write_items
from serving.release.manifest import EncoderRef, FileEntry, GoldenQuery, IndexRef, Manifest, Shard
from serving.storage import open_store
from tests.serving.fake_model_server import MODEL, embed
from tests.serving.pictures import png


class Collection:
    """Publishes releases without a publisher: only their bytes matter to a reader."""

    def __init__(self, root: pathlib.Path, *, dimension: int = 16) -> None:
        self.root = root
        self.dimension = dimension
        self.images = {f"item-{i}.png": png(i) for i in range(40)}
        self.current = ""
        self._releases: dict[str, tuple[list[str], np.ndarray]] = {}
        self._seeds: list[int] = []

    def publish(self, *, seed: int = 0, count: int | None = None, shards: int = 2, flip: str = "") -> str:
        """Publishes the first `count` images, embedded with the weights of `seed`; returns the release id.

        Each seed is an encoder version of its own, from 1 on. flip: a part of the release to flip a byte in.
        """
        names = list(self.images)[:count]
        embeddings = embed([self.images[name] for name in names], seed=seed, dimension=self.dimension)
        release_id = f"r{len(self._releases) + 1}"
        self._releases[release_id] = names, embeddings
        folder = self.root / layout.release_folder(release_id)
        parts = [self._write_shard(folder, shard, shards, names, embeddings) for shard in range(shards)]
        parameters = choose_parameters(len(names), self.dimension)
        manifest = Manifest(
            release_id=release_id,
            created=1.0,
            parent=self.current or None,
            encoder=self._write_encoder(seed),
            index=IndexRef(parameters.kind, "cosine", len(names), parameters.to_dict(), tuple(parts)),
            golden=tuple(GoldenQuery(n, self._neighbors(release_id, n)) for n in names[:3]),
            golden_recall=1.0,
            evaluation={},
            lineage={},
        )
        (folder / layout.MANIFEST).write_bytes(manifest.to_json())
        if flip:
            file = max((folder / flip).rglob("*"), key=lambda f: f.stat().st_size if f.is_file() else -1)
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        else:
            self.current = release_id
        write_current(open_store(self.root), release_id)
        return release_id

    def rollback(self, release_id: str) -> None:
        self.current = release_id
        write_current(open_store(self.root), release_id)

    def nearest(self, query: np.ndarray, k: int, *, release_id: str = "") -> list[tuple[str, float]]:
        """Returns ids and exact cosines, best first, by brute force."""
        names, embeddings = self._releases[release_id or self.current]
        scores = embeddings.astype(np.float64) @ query.astype(np.float64)
        best = sorted(zip(names, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        return best[:k]

    def _neighbors(self, release_id: str, name: str) -> tuple[str, ...]:
        names, embeddings = self._releases[release_id]
        found = self.nearest(embeddings[names.index(name)], 6, release_id=release_id)
        return tuple(n for n, _ in found if n != name)[:5]

    def _write_shard(self, folder: pathlib.Path, shard: int, shards: int, names: list[str], rows: np.ndarray) -> Shard:
        own = [i for i, name in enumerate(names) if layout.shard_of(name, shards) == shard]
        names, rows = [names[i] for i in own], rows[own]
        paths = [at(shard, shards) for at in (layout.index_folder, layout.embeddings_file, layout.items_file)]
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        build_index(rows, choose_parameters(len(rows), self.dimension)).save(folder / paths[0])
        np.save(folder / paths[1], rows)
        write_items(folder / paths[2], [self._item(name) for name in names])
        files = [
            FileEntry(entry.path, entry.size, entry.sha256)
            for entry in list_files(folder)
            if any(entry.path.startswith(path) for path in paths)
        ]
        return Shard(*paths, len(names), tuple(files))

    def _item(self, name: str) -> Item:
        number = int(name.removeprefix("item-").removesuffix(".png"))
        attributes = {"label": str(number % 10), "number": number, "half": number / 2, "odd": number % 2 == 1}
        return Item(name, f"file:///{name}", f"{number:064x}", 16, 16, attributes, b"thumbnail of " + name.encode())

    def _write_encoder(self, seed: int) -> EncoderRef:
        if seed not in self._seeds:
            self._seeds.append(seed)
        version = self._seeds.index(seed) + 1
        folder = self.root / layout.encoder_folder(MODEL, version)
        info = folder / layout.ENCODER_INFO
        if not info.exists():
            info.parent.mkdir(parents=True)
            probes = [png(9000), png(9001)]
            answers = embed(probes, seed=seed, dimension=self.dimension)
            description = EncoderInfo(
                dimension=self.dimension,
                height=16,
                width=16,
                channels=1,
                family="fake",
                normalised=True,
                metrics={},
                data_fingerprint="",
                probes=tuple(Probe(image, answer) for image, answer in zip(probes, answers, strict=True)),
            )
            info.write_bytes(description.to_json())
            (folder / "saved_model.pb").write_bytes(b"weights %d" % seed)
        return EncoderRef(MODEL, version, tree_digest(list_files(folder)), self.dimension, True)
