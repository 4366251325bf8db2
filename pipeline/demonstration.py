"""What `lookalike demo` shows: the collection, the running service, the queries asked, the pictures of the answers."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline import demo_images, pictures, processes
from serving.client import Answer as SearchAnswer
from serving.client import Client
from serving.encoders.tfserving import TfServingEncoder
from serving.images import canonicalize
from serving.search.encoder import Reconstruction

_ROWS = 8
_NEIGHBORS = 8


class DemoError(RuntimeError):
    """The demo can't go on; says why."""


@dataclasses.dataclass(frozen=True)
class Collection:
    """Where the demo's parts lie. queries: images that are not in the collection; empty for a user's own folder."""

    folder: pathlib.Path
    images: pathlib.Path
    queries: tuple[pathlib.Path, ...]
    label_from: str

    @property
    def serving_root(self) -> pathlib.Path:
        """Where the demo publishes."""
        return self.folder / "serving"


@dataclasses.dataclass(frozen=True)
class Service:
    """A running service. encoder: the model server's `host:port`."""

    client: Client
    encoder: str


def prepare(folder: pathlib.Path, images: str | None) -> Collection:
    """Returns the collection to show: the digits, written on the first call, or the user's own `images`."""
    if images is not None:
        path = pathlib.Path(images).absolute()
        if not path.exists():
            raise DemoError(f"there is no {path}.")
        # One place for each collection: another folder's pipeline must not be mistaken for this one's.
        own = folder / f"{path.name}-{_short_hash(str(path))}"
        own.mkdir(parents=True, exist_ok=True)
        return Collection(own, path, (), "")
    demo_images.write_digits(folder / "images", folder / "queries")
    return Collection(folder, folder / "images", tuple(sorted((folder / "queries").rglob("*.png"))), "folder")


@contextlib.contextmanager
def service(serving_root: pathlib.Path, logs: pathlib.Path) -> Iterator[Service]:
    """Starts model server and gateway on free ports; stops both at the end."""
    with contextlib.ExitStack() as stack:
        server = processes.start_model_server(str(serving_root), "encoder", logs)
        stack.callback(server.stop)
        encoder = f"127.0.0.1:{server.wait_for_port(180)}"
        gateway = processes.start_gateway(str(serving_root), encoder, logs)
        stack.callback(gateway.stop)
        address = f"127.0.0.1:{gateway.wait_for_port(60)}"
        release = processes.wait_until_serving(address, gateway, timeout=180)
        print(f"Release {release} is served at {address}", flush=True)
        yield Service(stack.enter_context(Client(address)), encoder)


def show(running: Service, collection: Collection) -> None:
    """Asks by image, by item id and by vector; prints one answer; writes the pictures and the report."""
    client = running.client
    release = client.get_release()
    manifest = json.loads((collection.serving_root / "releases" / release.release_id / "release.json").read_bytes())
    queries = _chosen(client, collection, manifest)
    answers = [_answer(client, name, data, client.search(image=data, k=_NEIGHBORS)) for name, data in queries]
    name, image = queries[0]
    by_image = client.search(image=image, k=_NEIGHBORS)
    _print_neighbors(f"Nearest to {name}", by_image)

    # The nearest item by its id, and the query's embedding as a vector: the other two ways to ask.
    item_id = by_image.neighbors[0].item.item_id
    by_item = client.search(item_id=item_id, k=_NEIGHBORS)
    _print_neighbors(f"Nearest to the item {item_id}", by_item)
    by_vector = client.search(vector=client.encode(image).values, k=_NEIGHBORS)
    if [n.item.item_id for n in by_vector.neighbors] != [n.item.item_id for n in by_image.neighbors]:
        raise DemoError("asking by an image and asking by its vector gave different neighbours.")
    answers.append(_answer(client, f"item {item_id}", client.get_item(item_id, thumbnail=True).thumbnail, by_item))

    folder = collection.folder
    pictures.result_grid(answers, folder / "results.png")
    inputs = [data for _, data in queries]
    images, errors = reconstruct(running.encoder, release.encoder_version, inputs)
    pictures.reconstruction_grid(inputs, images, errors, folder / "reconstructions.png")
    facts = [
        ("Collection", f"{collection.images}: {release.count:,} items"),
        ("Release", f"{release.release_id}, encoder version {release.encoder_version}, {release.dimension} dimensions"),
        ("Index", f"{release.index_kind}; {_recall(manifest)}"),
        ("Reconstruction error of the queries", f"{float(np.mean(errors)):.4f} (mean squared, pixels in [0, 1])"),
    ]
    shown = [
        ("Queries, and the items nearest to them with the cosine of the angle", folder / "results.png"),
        ("What the encoder kept: inputs, and their reconstructions", folder / "reconstructions.png"),
    ]
    (folder / "report.html").write_text(pictures.page("Which images look like this one?", facts, shown))


def _answer(client: Client, title: str, image: bytes, result: SearchAnswer) -> pictures.Answer:
    neighbors = tuple(
        (n.item.item_id, n.score, client.get_item(n.item.item_id, thumbnail=True).thumbnail) for n in result.neighbors
    )
    return pictures.Answer(title, image, neighbors)


def _print_neighbors(title: str, result: SearchAnswer) -> None:
    print(f"\n{title}, in release {result.release_id}:")
    for rank, neighbor in enumerate(result.neighbors, 1):
        print(f"  {rank:2d}  {neighbor.score:.4f}  {neighbor.item.item_id}")


def reconstruct(encoder: str, version: int, images: Sequence[bytes]) -> tuple[list[pictures.Pixels], list[float]]:
    """Returns what the decoder makes of images (uint8 `[H, W, C]` each) and their errors, asked of a model server."""
    canonical = [canonicalize(image).data for image in images]

    async def ask() -> Reconstruction:
        model_server = TfServingEncoder(encoder)
        try:
            return await model_server.reconstruct(canonical, model="encoder", version=version, timeout=60.0)
        finally:
            await model_server.close()

    answer = asyncio.run(ask())
    return list(answer.images), [float(error) for error in answer.errors]


def _chosen(client: Client, collection: Collection, manifest: dict[str, Any]) -> list[tuple[str, bytes]]:
    # (name, image): of the digits one of each, a nine first; of a user's own images held-out ones, spread evenly.
    if collection.queries:
        by_digit = {path.parent.name: path for path in reversed(collection.queries)}
        digits = sorted(by_digit, key=lambda digit: (digit != "9", digit))[:_ROWS]
        return [(f"a held-out {digit}", by_digit[digit].read_bytes()) for digit in digits]
    golden = manifest["golden"]
    ids = [golden[number]["item_id"] for number in sorted({int(n) for n in np.linspace(0, len(golden) - 1, _ROWS)})]
    return [(item_id, _image_of(client, item_id)) for item_id in ids]


def _image_of(client: Client, item_id: str) -> bytes:
    item = client.get_item(item_id, thumbnail=True)
    path = pathlib.Path(item.uri.removeprefix("file://"))
    # A member of an archive, or an object in a bucket, is shown by its thumbnail.
    return path.read_bytes() if path.is_file() else item.thumbnail


def _recall(manifest: dict[str, Any]) -> str:
    recall = manifest["evaluation"].get("recall", {})
    return ", ".join(f"recall@{k} {float(value):.3f}" for k, value in recall.items()) or "recall not measured"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
