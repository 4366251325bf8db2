"""Keeps the models loaded that the configuration and the folders ask for, and says how each version stands."""

import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import grpc

from serving.model_server.config import LoadOptions, ModelConfig
from serving.model_server.errors import (
    ServingError,
    failed_precondition,
    from_exception,
    invalid_argument,
    not_found,
)
from serving.model_server.servable import Handle, Servable
from serving.model_server.versions import Load, Snapshot, State, Unload, aspired_versions, list_versions, next_action

_LOG = logging.getLogger(__name__)

# Loads (and warms up) one version: model name, version, folder.
Loader = Callable[[str, int, pathlib.Path], Servable]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """How a version stands. error: why it couldn't be loaded."""

    version: int
    state: State
    error: ServingError | None = None


@dataclasses.dataclass
class _Version:
    folder: pathlib.Path
    aspired: bool = True
    loading: bool = False
    attempts: int = 0
    due: float = 0.0
    error: ServingError | None = None


class ModelStore:
    """The models of one server. One thread looks at the folders, one loads and unloads; any thread may ask.

    As in TF Serving, a version is reported AVAILABLE after it is, and UNLOADING before it goes; what has ended stays
    listed as END.
    """

    def __init__(
        self, loader: Loader, options: LoadOptions | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loader = loader
        self._options = options or LoadOptions()
        self._clock = clock
        self._changed = threading.Condition()
        self._configs: dict[str, ModelConfig] = {}
        self._labels: dict[str, dict[str, int]] = {}
        # What is managed now, and what was ever seen: by model name, then version.
        self._managed: dict[str, dict[int, _Version]] = {}
        self._status: dict[str, dict[int, VersionStatus]] = {}
        self._available: dict[str, dict[int, Handle]] = {}
        self._next_poll = 0.0
        self._stopping = False
        self._drains: list[tuple[Handle, threading.Thread]] = []
        self._threads = [
            threading.Thread(target=target, name=f"model-store{target.__name__}", daemon=True)
            for target in (self._watch, self._manage)
        ]

    def start(self, configs: Sequence[ModelConfig]) -> None:
        """Begins to load. Raises FAILED_PRECONDITION for a label, as TF Serving does: nothing is available yet."""
        self._configure(configs)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Unloads everything, and cancels what still runs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._changed:
            for model, handles in list(self._available.items()):
                for version in sorted(handles):
                    self._unload(model, version)
            drains = list(self._drains)
        for handle, drain in drains:
            handle.abandon()
            drain.join()

    def reload(self, configs: Sequence[ModelConfig], timeout: float | None) -> None:
        """Replaces the configuration; waits until every model that is new has a version, or failed.

        timeout: seconds to wait, None for ever. Raises UNKNOWN, in TF Serving's words, where a new model failed.
        """
        with self._changed:
            new = [config.name for config in configs if config.name not in self._configs]
            # What an earlier life of the same name has left says nothing about this one.
            self._configure(configs)
            for name in new:
                managed = self._managed.get(name, {})
                left = {v: status for v, status in self._status.get(name, {}).items() if v in managed}
                self._status[name] = left
            self._next_poll = 0.0
            self._changed.notify_all()
        if not self.wait_until_tried(new, timeout):
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, f"Not loaded in time: {', '.join(new)}.")
        failed = [name for name in new if not self._available.get(name)]
        if failed:
            details = "".join(f"{{{self._failure(name)}}}, " for name in failed)
            raise ServingError(
                grpc.StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{details}}}"
            )

    def wait_until_tried(self, names: Iterable[str], timeout: float | None = None) -> bool:
        """Waits until each model has versions, and each of its first ones is available or has failed (once).

        Returns False after `timeout` seconds, or when the store stops.
        """
        names = list(names)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or all(map(self._tried, names)), timeout)
            return all(map(self._tried, names))

    @property
    def serves(self) -> bool:
        """Whether any version is available."""
        return any(self._available.values())

    @property
    def model_names(self) -> list[str]:
        """The models that are configured."""
        return list(self._configs)

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Handle:
        """Returns an available version, the largest where none is named; use it in a `with`.

        Raises NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._changed:
            if not name:
                raise invalid_argument("ModelSpec has no name specified.")
            if label is not None:
                version = self.version_of(name, label)
            handles = self._available.get(name, {})
            if version is None and handles:
                version = max(handles)
            if version is None or version not in handles:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {request}")
            return handles[version].acquire()

    def version_of(self, name: str, label: str) -> int:
        """Returns the version that `label` points at; raises INVALID_ARGUMENT where it is unknown."""
        with self._changed:
            labels = self._labels.get(name, {})
            if label not in labels:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
            return labels[label]

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Returns how the versions of a model stand, largest first (or the one that is named); raises NOT_FOUND."""
        with self._changed:
            found = self._status.get(name, {})
            if version is not None:
                if version not in found:
                    raise not_found(f"Could not find version {version} of model {name}")
                return [found[version]]
            if not found:
                raise not_found(f"Could not find any versions of model {name}")
            return [found[number] for number in sorted(found, reverse=True)]

    def _configure(self, configs: Sequence[ModelConfig]) -> None:
        labels = {config.name: dict(config.labels) for config in configs}
        with self._changed:
            for name, wanted in labels.items():
                for label, version in wanted.items():
                    self._check_label(name, label, version)
            self._configs = {config.name: config for config in configs}
            self._labels = labels

    def _check_label(self, name: str, label: str, version: int) -> None:
        existing = self._labels.get(name, {}).get(label)
        if self._options.labels_for_unavailable and existing in (None, version):
            return
        if version not in self._available.get(name, {}):
            raise failed_precondition(
                f"Request to assign label to version {version} of model {name}, "
                "which is not currently available for inference"
            )

    def _tried(self, name: str) -> bool:
        managed = self._managed.get(name, {})
        return bool(managed) and all(version.attempts for version in managed.values())

    def _failure(self, name: str) -> str:
        managed = self._managed.get(name, {})
        number = max(managed, default=0)
        error = managed[number].error if managed else None
        return f"{{name: {name} version: {number}}}" + (f" due to error: {error.message}" if error else "")

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._clock() >= self._next_poll, self._until_poll())
                if self._stopping:
                    return
                due = self._clock() >= self._next_poll
                configs = list(self._configs.values())
            if due:
                self._poll(configs)

    def _until_poll(self) -> float | None:
        return None if self._next_poll == float("inf") else max(0.0, self._next_poll - self._clock())

    def _manage(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                loads = self._next_load()
                if loads is None:
                    self._changed.wait(self._until_retry())
                    continue
            self._load(*loads)

    def _until_retry(self) -> float | None:
        now = self._clock()
        due = [v.due - now for versions in self._managed.values() for v in versions.values() if v.due > now]
        return min(due, default=None)

    def _poll(self, configs: Sequence[ModelConfig]) -> None:
        with self._changed:
            self._next_poll = self._clock() + self._options.poll_seconds if self._options.poll_seconds else float("inf")
        found: dict[str, dict[int, pathlib.Path]] = {}
        for config in configs:
            try:
                found[config.name] = list_versions(config.base_path)
            except OSError as error:
                # Perhaps only for a moment (a mount): what is served stays.
                _LOG.warning("Could not read base path %s of model %s: %s", config.base_path, config.name, error)
        with self._changed:
            for config in configs:
                if config.name in found and self._configs.get(config.name) is config:
                    wanted = aspired_versions(config.policy, found[config.name])
                    if not wanted:
                        _LOG.warning("No versions of model %s to serve under %s.", config.name, config.base_path)
                    self._aspire(config.name, {version: found[config.name][version] for version in wanted})
            for name in set(self._managed) - set(self._configs):
                self._aspire(name, {})
            self._changed.notify_all()

    def _aspire(self, name: str, wanted: dict[int, pathlib.Path]) -> None:
        managed = self._managed.setdefault(name, {})
        for number in list(managed):
            managed[number].aspired = number in wanted
            status = self._status[name][number]
            if number in wanted or managed[number].loading:
                continue
            if status.state in (State.START, State.LOADING, State.END):
                # Not loaded, between two attempts, or failed: nothing to unload.
                del managed[number]
                self._set(name, VersionStatus(number, State.END, status.error))
        for number, folder in wanted.items():
            if number not in managed:
                managed[number] = _Version(folder)
                self._set(name, VersionStatus(number, State.START))
        if not managed:
            del self._managed[name]

    def _next_load(self) -> tuple[str, int, _Version] | None:
        """Unloads what should go now (it makes room), and returns what to load next."""
        found = None
        for name in list(self._managed):
            while isinstance(action := next_action(self._snapshots(name)), Unload):
                self._unload(name, action.version)
            if isinstance(action, Load) and found is None:
                found = (name, action.version, self._managed[name][action.version])
        if found is not None:
            name, number, version = found
            version.loading = True
            self._set(name, VersionStatus(number, State.LOADING))
        return found

    def _snapshots(self, name: str) -> list[Snapshot]:
        now = self._clock()
        return [
            Snapshot(number, self._status[name][number].state, version.aspired, version.due <= now)
            for number, version in self._managed[name].items()
        ]

    def _load(self, name: str, number: int, version: _Version) -> None:
        started = self._clock()
        try:
            servable = self._loader(name, number, version.folder)
        except Exception as error:
            self._failed(name, number, version, from_exception(error))
            return
        with self._changed:
            version.loading = False
            version.attempts += 1
            self._available[name] = {**self._available.get(name, {}), number: Handle(name, number, servable)}
            self._set(name, VersionStatus(number, State.AVAILABLE))
        _LOG.info("Model %s version %d is available after %.1f s.", name, number, self._clock() - started)

    def _failed(self, name: str, number: int, version: _Version, error: ServingError) -> None:
        with self._changed:
            version.loading = False
            version.attempts += 1
            version.error = error
            if not version.aspired:
                left = "nobody wants it any more"
                del self._managed[name][number]
                self._set(name, VersionStatus(number, State.END, error))
            elif version.attempts <= self._options.retries:
                left = f"trying again in {self._options.retry_seconds:g} s"
                version.due = self._clock() + self._options.retry_seconds
                self._changed.notify_all()
            else:
                left = "giving up"
                self._set(name, VersionStatus(number, State.END, error))
        _LOG.error("Model %s version %d can't be loaded, %s: %s", name, number, left, error)

    def _unload(self, name: str, number: int) -> None:
        self._set(name, VersionStatus(number, State.UNLOADING))
        handles = dict(self._available[name])
        handle = handles.pop(number)
        self._available[name] = handles
        # A request that takes long must not keep other versions from being loaded.
        drain = threading.Thread(target=self._drain, args=(handle,), name=f"unload-{name}-{number}", daemon=True)
        drain.start()
        self._drains = [*((h, thread) for h, thread in self._drains if thread.is_alive()), (handle, drain)]

    def _drain(self, handle: Handle) -> None:
        handle.drain()
        with self._changed:
            managed = self._managed.get(handle.name, {})
            managed.pop(handle.version, None)
            if not managed:
                self._managed.pop(handle.name, None)
            self._set(handle.name, VersionStatus(handle.version, State.END))
        _LOG.info("Model %s version %d is unloaded.", handle.name, handle.version)

    def _set(self, name: str, status: VersionStatus) -> None:
        self._status.setdefault(name, {})[status.version] = status
        self._changed.notify_all()
