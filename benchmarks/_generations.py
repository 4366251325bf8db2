"""Generations of an encoder and its index, each a real release, and what each must answer.

Every generation has other weights than the one before and other items, so that an answer that mixes two of them is
wrong, and seen to be. They are published beside the serving root and appear in it one by one, in a publisher's order.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._encoders import MODEL, write_encoder
from benchmarks._load import read_answers
from benchmarks._releases import Embeddings, make_items, publish_release, write_body
from lookalike.retrieval.v1 import retrieval_pb2
from serving.release import layout
from serving.release.current import write_current
from serving.release.retention import prune
from serving.storage import open_store

K = 10
WEIGHTS = 4
_DIMENSION = 64
# Of scores: the model server's batches round differently from ours.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Generation:
    """A release. weights: which of the encoders. rows: of the images that are in it, int64 `[n]`."""

    release_id: str
    version: int
    weights: int
    rows: npt.NDArray[np.int64]


class Generations:
    """Generation 0 is served from the start; `advance` puts the next one in its place."""

    def __init__(self, folder: pathlib.Path, images: Sequence[bytes], queries: Sequence[bytes], count: int) -> None:
        """count: of generations. images: of the collection. queries: images that are not in it."""
        self.root = folder / "root"
        self._staging = folder / "staging"
        self._items = make_items(len(images))
        self._row_of = {item.item_id: row for row, item in enumerate(self._items)}
        self._queries = list(queries)
        self._embeddings: list[Embeddings] = []
        self._embedded_queries: list[Embeddings] = []
        for weights in range(min(WEIGHTS, count)):
            encoder = write_encoder(folder / f"weights-{weights}", images, dimension=_DIMENSION, seed=weights)
            self._embeddings.append(encoder.in_batches(images))
            self._embedded_queries.append(encoder.in_batches(queries))
        self.all = [self._publish(folder, number) for number in range(count)]
        self._by_id = {generation.release_id: generation for generation in self.all}
        self.number = -1
        self.advance()

    @property
    def current(self) -> Generation:
        """The generation that `CURRENT` names."""
        return self.all[self.number]

    def advance(self, *, keep: int = 3) -> Generation:
        """Makes the next generation appear, prunes all but `keep`, and returns it."""
        self.number += 1
        generation = self.current
        for part in (layout.encoder_folder(MODEL, generation.version), layout.release_folder(generation.release_id)):
            (self.root / part).parent.mkdir(parents=True, exist_ok=True)
            (self._staging / part).rename(self.root / part)
        store = open_store(self.root)
        # All that a publisher does in the serving root at that moment. That it checks and copies everything before was
        # done in the staging folder: it has a machine of its own, and these two cores are for those who answer.
        write_current(store, generation.release_id)
        if self.number >= keep:
            prune(store, keep=keep, grace_seconds=0, holder="benchmark")
        return generation

    def vector_requests(self) -> list[Any]:
        """Returns a query for each query image, by what the first encoder makes of it."""
        return [
            retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=vector.tolist()), k=K)
            for vector in self._embedded_queries[0]
        ]

    def image_requests(self) -> list[Any]:
        """Returns a query for each query image."""
        return [retrieval_pb2.SearchRequest(image=image, k=K) for image in self._queries]

    def wrong_answers(self, file: pathlib.Path, kinds: Sequence[tuple[str, int]]) -> tuple[int, list[str]]:
        """Compares answers with brute force over the release that each names.

        kinds: of each request, `vector` or `image` and the number of the query. Returns how many answers there are,
        and what is wrong with those that are wrong.
        """
        expected: dict[str, tuple[Embeddings, Embeddings]] = {}
        count, wrong = 0, []
        for request, data in read_answers(file):
            count += 1
            answer = retrieval_pb2.SearchResponse.FromString(data)
            fault = self._fault(answer, *kinds[request], expected)
            if fault:
                wrong.append(f"request {request}, release {answer.release_id}: {fault}")
        return count, wrong

    def _fault(self, answer: Any, kind: str, query: int, expected: dict[str, tuple[Embeddings, Embeddings]]) -> str:
        generation = self._by_id.get(answer.release_id)
        if generation is None:
            return "there is no such release."
        if answer.encoder_version != generation.version:
            return f"it has encoder {generation.version}, the answer says {answer.encoder_version}."
        key = f"{kind} {answer.release_id}"
        if key not in expected:
            expected[key] = self._expected(generation, kind)
        scores, best = expected[key][0][query], expected[key][1][query]
        rows = [self._row_of[neighbor.item.item_id] for neighbor in answer.neighbors]
        got = np.array([neighbor.score for neighbor in answer.neighbors])
        if len(set(rows)) != K or np.abs(scores[rows] - got).max() > _TOLERANCE:
            return f"scores {got.round(4).tolist()}, by brute force {scores[rows].round(4).tolist()}."
        if np.abs(best - got).max() > _TOLERANCE:
            return f"neighbours at {got.round(4).tolist()}, the nearest are at {best.round(4).tolist()}."
        return ""

    def _expected(self, generation: Generation, kind: str) -> tuple[Embeddings, Embeddings]:
        queries = self._embedded_queries[generation.weights if kind == "image" else 0]
        # What is not in the release can't be near.
        scores = np.full((len(queries), len(self._items)), -9, np.float32)
        scores[:, generation.rows] = queries @ self._embeddings[generation.weights][generation.rows].T
        return scores, -np.sort(-scores, axis=1)[:, :K]

    def _publish(self, folder: pathlib.Path, number: int) -> Generation:
        weights = number % WEIGHTS
        # Another digest, so another version: each generation's encoder is loaded anew.
        encoder = shutil.copytree(folder / f"weights-{weights}", folder / f"encoder-{number}")
        (encoder / "assets.extra" / "generation").write_text(f"{number}\n")
        everything = np.random.default_rng(number).permutation(len(self._items))
        rows = np.sort(everything[: len(everything) * 9 // 10])
        embeddings, items = self._embeddings[weights][rows], [self._items[row] for row in rows]
        body = write_body(folder / f"body-{number}", items, embeddings)
        published = publish_release(self._staging, encoder, body, items, embeddings)
        shutil.rmtree(encoder)
        shutil.rmtree(body)
        return Generation(published.release_id, published.manifest.encoder.version, weights, rows)
