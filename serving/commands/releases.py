"""Looks after the releases of a serving root: which there are, whether they are sound, which one is served.

  lookalike releases list     --serving-root ROOT
  lookalike releases show     --serving-root ROOT [RELEASE]
  lookalike releases verify   --serving-root ROOT [RELEASE] [--encoder HOST:PORT]
  lookalike releases rollback --serving-root ROOT [RELEASE]
  lookalike releases prune    --serving-root ROOT --keep 3
  lookalike releases purge    --serving-root ROOT
  lookalike releases purges   --serving-root ROOT

A release is an encoder and the index that was built with it. CURRENT in the serving root names the one that gateways
serve; they follow it without a restart. Exit codes: 0 done; 1 the release is refused, or there is none; 2 it can't be
told or done now (wrong flags, the serving root or the encoder away, another publishes): trying again may help.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from serving.commands import erasing
from serving.commands.problems import Problem, holder, print_json, utc

if TYPE_CHECKING:
    from serving.release.manifest import Manifest
    from serving.release.reader import Release
    from serving.release.retention import Listed
    from serving.storage import Store

HELP = "list, show, verify, roll back, prune and purge releases"
_PROBE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's subcommands and their flags."""
    actions = parser.add_subparsers(title="what to do", required=True, metavar="ACTION")

    def add(name: str, act: Callable[[argparse.Namespace, "Store"], int], text: str, more: str = "") -> Any:
        action = actions.add_parser(
            name,
            allow_abbrev=False,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_argument("--serving-root", required=True, help="folder, gs:// or s3:// that holds CURRENT")
        action.add_argument("--json", action="store_true", help="print JSON instead of text")
        action.set_defaults(act=act)
        return action

    add("list", _list, "list all releases, newest first", "\n\nA star marks the one that is served.")
    show = add("show", _show, "show what a release holds and what made it")
    verify = add(
        "verify",
        _verify,
        "check everything of a release",
        "\n\nReads every byte of it: digests, sizes, counts, dimensions, unit lengths, and recall on its golden\n"
        "queries. With --encoder also whether the running encoder is the one it was built with.",
    )
    rollback = add(
        "rollback",
        _rollback,
        "make an older release the served one",
        "\n\nIt is verified before. The next reindex builds on it. To undo, roll back to the release that is named\n"
        "in the answer.",
    )
    for action, default in (
        (show, "the served one"),
        (verify, "the served one"),
        (rollback, "the served one's parent"),
    ):
        action.add_argument("release", nargs="?", metavar="RELEASE", help=f"release id [{default}]")
    for action in (verify, rollback):
        action.add_argument("--cache", type=pathlib.Path, help="where copies from an object store are kept [nowhere]")
    verify.add_argument("--encoder", metavar="HOST:PORT", help="TF Serving's gRPC, to ask it for the probe as well")
    rollback.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for another publisher [0]")
    erasing.add_actions(add)


def run(arguments: argparse.Namespace) -> int:
    """Does what was asked; returns its exit code."""
    from serving.release.lease import LeaseHeld, LeaseLost
    from serving.release.verify import ReleaseRefused
    from serving.search.errors import RetrievalError
    from serving.storage import open_store

    try:
        return int(arguments.act(arguments, open_store(arguments.serving_root)))
    except Problem as problem:
        message, code = str(problem), problem.code
    except ReleaseRefused as error:
        message, code = f"refused: {error}", 1
    except (LeaseHeld, LeaseLost, RetrievalError, OSError, ValueError) as error:
        message, code = str(error), 2
    print(f"lookalike releases: {message}", file=sys.stderr)
    return code


def _list(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.retention import list_releases

    listed = list_releases(store)
    if arguments.json:
        print_json([_summary(release) for release in listed])
        return 0
    if not listed:
        print(f"{store.uri} holds no release yet.")
        return 0
    rows = [("", "RELEASE", "CREATED", "ITEMS", "INDEX", "ENCODER", "PARENT")]
    for release in listed:
        mark, manifest = "*" if release.current else "", release.manifest
        if manifest is None:
            rows.append((mark, release.release_id, "", "", "", "", f"can't be read: {release.problem}"))
            continue
        encoder = f"{manifest.encoder.model}/{manifest.encoder.version}"
        count = str(manifest.index.count)
        created = utc(manifest.created)
        rows.append((mark, release.release_id, created, count, manifest.index.kind, encoder, manifest.parent or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _show(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.reader import read_manifest

    manifest = read_manifest(store, _chosen(arguments, store))
    if arguments.json:
        print(manifest.to_json().decode(), end="")
        return 0
    encoder, index = manifest.encoder, manifest.index
    size = sum(entry.size for entry in manifest.files)
    parameters = ", ".join(f"{name} {value}" for name, value in index.parameters.items() if name != "kind")
    print(f"release     {manifest.release_id}")
    print(f"created     {utc(manifest.created)}")
    print(f"parent      {manifest.parent or '-'}")
    print(f"encoder     {encoder.model} version {encoder.version}, {encoder.dimension} dimensions")
    print(f"            sha256 {encoder.digest}")
    print(f"index       {index.kind}, {index.count} items in {len(index.shards)} shards, {size / 1e6:.1f} MB")
    print(f"            {parameters}")
    updates = manifest.updates
    counts = f"{updates.upserts} upserts, {updates.tombstones} deleted" if updates else "none"
    print(f"updates     {counts}")
    print(f"golden      {len(manifest.golden)} queries, recall of at least {manifest.golden_recall:.4f}")
    for name, value in (("evaluation", manifest.evaluation), ("lineage", manifest.lineage)):
        print(f"{name:11} {json.dumps(value, sort_keys=True)}")
    return 0


def _verify(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.reader import check_encoder, golden_recall

    release_id = _chosen(arguments, store)
    with _opened(arguments, store, release_id) as release:
        if arguments.encoder:
            check_encoder(release, lambda images: _encode(arguments.encoder, release.manifest, images))
        recall = golden_recall(release)
        files = release.manifest.files
    size = sum(entry.size for entry in files)
    if arguments.json:
        print_json(
            {
                "release_id": release_id,
                "files": len(files),
                "bytes": size,
                "golden_queries": len(release.manifest.golden),
                "golden_recall": recall,
                "encoder_checked": bool(arguments.encoder),
            }
        )
        return 0
    print(f"{release_id} is sound: {len(files)} files, {size / 1e6:.1f} MB, recall {recall:.4f} on its golden queries.")
    if arguments.encoder:
        print(f"The encoder at {arguments.encoder} is the one it was built with.")
    return 0


def _rollback(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.reader import read_manifest
    from serving.release.retention import rollback

    release_id = arguments.release
    if release_id is None:
        current = _chosen(arguments, store)
        release_id = read_manifest(store, current).parent
        if release_id is None:
            raise Problem(f"{current} is the first release: there is none to go back to.", 1)
        if not _exists(store, release_id):
            raise Problem(
                f"{release_id}, on which {current} was built, was pruned or purged: name one that"
                " `lookalike releases list` shows.",
                1,
            )
    _check_exists(store, release_id)
    with _cache(arguments, store) as cache:
        before = rollback(
            store, release_id, holder=holder("releases rollback"), cache=cache, wait_seconds=arguments.wait_seconds
        )
    if arguments.json:
        print_json({"release_id": release_id, "before": before})
    elif before == release_id:
        print(f"{release_id} is the served release already.")
    else:
        print(f"{release_id} is the served release now; before it was {before}.")
    return 0


def _chosen(arguments: argparse.Namespace, store: "Store") -> str:
    """Returns the release that was asked for, or the served one."""
    from serving.release.current import read_current

    release_id: str | None = arguments.release or read_current(store)
    if release_id is None:
        raise Problem(f"{store.uri} serves no release yet.", 1)
    _check_exists(store, release_id)
    return release_id


def _exists(store: "Store", release_id: str) -> bool:
    from serving.release import layout

    return store.exists(f"{layout.release_folder(release_id)}/{layout.MANIFEST}")


def _check_exists(store: "Store", release_id: str) -> None:
    if not _exists(store, release_id):
        raise Problem(f"{store.uri} holds no release {release_id}; `lookalike releases list` shows those it holds.", 1)


@contextlib.contextmanager
def _opened(arguments: argparse.Namespace, store: "Store", release_id: str) -> Iterator["Release"]:
    from serving.release.reader import open_release

    with _cache(arguments, store) as cache, contextlib.closing(open_release(store, release_id, cache=cache)) as release:
        yield release


@contextlib.contextmanager
def _cache(arguments: argparse.Namespace, store: "Store") -> Iterator[pathlib.Path | None]:
    """Yields where copies of a remote release go: where was asked for, else somewhere that is gone afterwards."""
    if arguments.cache or store.local_path("") is not None:
        yield arguments.cache
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-release-") as temporary:
        yield pathlib.Path(temporary)


def _encode(address: str, manifest: "Manifest", images: list[bytes]) -> Any:
    import asyncio

    from serving.encoders.tfserving import TfServingEncoder

    async def ask() -> Any:
        encoder = TfServingEncoder(address)
        try:
            version = manifest.encoder.version
            return await encoder.encode(images, model=manifest.encoder.model, version=version, timeout=_PROBE_SECONDS)
        finally:
            await encoder.close()

    return asyncio.run(ask())


def _summary(release: "Listed") -> dict[str, Any]:
    value: dict[str, Any] = {"release_id": release.release_id, "current": release.current, "problem": release.problem}
    manifest = release.manifest
    if manifest is not None:
        value.update(
            created=manifest.created,
            parent=manifest.parent,
            count=manifest.index.count,
            index_kind=manifest.index.kind,
            encoder=dataclasses.asdict(manifest.encoder),
        )
    return value
