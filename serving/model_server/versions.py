"""Which versions of a model should be loaded, and what to do next: TF Serving's rules, without side effects.

A version is a folder with a plain integer name. A version is loaded before the one it replaces is unloaded, and a
version that doesn't load never costs one that is served. As in TF Serving, a base path that is there but holds no
versions unloads all of them (a publisher must never empty it), while one that can't be read changes nothing.
"""

import dataclasses
import enum
import logging
import pathlib
import re
from collections.abc import Iterable, Sequence

_LOG = logging.getLogger(__name__)
_NUMBER = re.compile(r"[0-9]+")
_MAX = 2**63 - 1


class State(enum.IntEnum):
    """What GetModelStatus says of a version: the numbers of tensorflow.serving.ModelVersionStatus.State."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass(frozen=True)
class Latest:
    """The `count` largest versions."""

    count: int = 1


@dataclasses.dataclass(frozen=True)
class All:
    """Every version that is there."""


@dataclasses.dataclass(frozen=True)
class Specific:
    """These versions, where they are there."""

    versions: frozenset[int]


Policy = Latest | All | Specific


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A version as it stands. aspired: whether the policy wants it. due: whether it may be (re)loaded now."""

    version: int
    state: State
    aspired: bool
    due: bool = True


@dataclasses.dataclass(frozen=True)
class Load:
    """Load this version next."""

    version: int


@dataclasses.dataclass(frozen=True)
class Unload:
    """Unload this version next."""

    version: int


def list_versions(base_path: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the version folders below `base_path`; raises OSError where it can't be read."""
    return by_version(sorted(child for child in base_path.iterdir() if child.is_dir()))


def by_version(children: Iterable[pathlib.Path]) -> dict[int, pathlib.Path]:
    """Returns those of `children` that are named by an int64, `0002` like `2`; the later of two of one number."""
    found: dict[int, pathlib.Path] = {}
    for child in children:
        if not (child.name.isascii() and _NUMBER.fullmatch(child.name)) or int(child.name) > _MAX:
            continue
        version = int(child.name)
        if version in found:
            _LOG.warning("%s and %s are the same version; %s is used.", found[version], child, child)
        found[version] = child
    return found


def aspired_versions(policy: Policy, present: Iterable[int]) -> set[int]:
    """Returns which of the versions that are `present` should be loaded."""
    versions = sorted(present)
    match policy:
        case All():
            return set(versions)
        case Specific(wanted):
            return set(versions) & wanted
        case Latest(count):
            return set(versions[-max(count, 1) :])


def next_action(versions: Sequence[Snapshot]) -> Load | Unload | None:
    """Returns what to do next for one model, None where all is done (or waits): TF Serving's availability preserving.

    Unwanted versions go when a wanted one is available, or when there are no wanted ones at all.
    """
    aspired = [v for v in versions if v.aspired]
    leaving = sorted(v.version for v in versions if not v.aspired and v.state == State.AVAILABLE)
    replaced = any(v.state == State.AVAILABLE for v in aspired)
    if leaving and (not aspired or replaced or len(leaving) > 1):
        return Unload(leaving[0])
    waiting = [v.version for v in aspired if v.due and v.state in (State.START, State.LOADING)]
    return Load(max(waiting)) if waiting else None
