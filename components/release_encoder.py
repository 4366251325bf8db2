"""Takes the encoder of the current release out of its serving root: what a reindex embeds with, and builds on."""

import logging

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifact_files import fetched_folder
from components.artifacts import BaseRelease
from components.reindex.base import BASE, Base
from serving.release import layout
from serving.release.current import read_current
from serving.release.encoder_info import list_files, tree_digest
from serving.release.manifest import Manifest
from serving.release.reader import read_manifest
from serving.storage import Store, open_store

_log = logging.getLogger(__name__)


class NoRelease(RuntimeError):
    """There is nothing to build on: no release, or no encoder of the version that was asked for."""


def current_manifest(store: Store) -> Manifest:
    """Returns the manifest of the release that `CURRENT` names; raises NoRelease where there is none."""
    current = read_current(store)
    if current is None:
        raise NoRelease(f"{store.uri} holds no release: `lookalike run` publishes the first.")
    return read_manifest(store, current)


def copy_encoder(store: Store, model: str, version: int, target: str) -> str:
    """Copies a complete encoder to the URI `target`; returns the digest of what was copied. Raises NoRelease."""
    folder = layout.encoder_folder(model, version)
    if not store.exists(f"{folder}/{layout.SAVED_MODEL}"):
        there = ", ".join(store.folders(layout.model_folder(model))) or "none"
        raise NoRelease(f"{store.uri} holds no encoder {model!r} of version {version}; there are {there}.")
    copy = open_store(target)
    with fetched_folder(f"{store.uri}/{folder}") as source:
        files = list_files(source)
        for entry in files:
            copy.put(source / entry.path, entry.path)
    return tree_digest(files)


@component
def ReleaseEncoder(
    infra_blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    base: OutputArtifact[BaseRelease],
    serving_root: Parameter[str],
    encoder_version: Parameter[int] = 0,
    code: Parameter[str] = "",
) -> None:
    """Emits the complete encoder as an InfraBlessing that holds the model, as ServingValidator does, and the base.

    serving_root: whose `CURRENT` is read; a scheduled pod has no MLMD to ask. encoder_version: of the same model, in
    the place of the one that the release names; 0 for that one. code: the fingerprint of our code.
    """
    store = open_store(serving_root)
    manifest = current_manifest(store)
    named = manifest.encoder
    version = encoder_version or named.version
    digest = copy_encoder(store, named.model, version, path_utils.stamped_model_path(infra_blessing.uri))
    if version == named.version and digest != named.digest:
        raise NoRelease(f"encoder {version} has digest {digest}, release {manifest.release_id} says {named.digest}.")
    # What TFX's InfraValidator writes, and whoever takes an encoder looks for.
    open_store(infra_blessing.uri).write("INFRA_BLESSED", b"")
    infra_blessing.set_int_custom_property("blessed", 1)
    infra_blessing.set_int_custom_property("has_model", 1)
    written = open_store(base.uri)
    written.write(layout.MANIFEST, manifest.to_json())
    found = Base.of(serving_root, manifest, digest)
    written.write(BASE, found.to_json())
    base.set_string_custom_property("release_id", found.release_id)
    _log.info(
        "reindexing %s (%d items) with encoder %d%s",
        *(found.release_id, found.count, version, "" if found.holds_embeddings else ", which did not embed it"),
    )
