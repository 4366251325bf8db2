"""`CURRENT`: the one line that says which release is served."""

from serving.release import layout
from serving.storage import Store


def read_current(store: Store) -> str | None:
    """Returns the current release's id, or None before the first; raises ValueError where `CURRENT` holds no id."""
    try:
        line = store.read(layout.CURRENT)
    except FileNotFoundError:
        return None
    return layout.check_release_id(line.decode(errors="replace").strip())


def write_current(store: Store, release_id: str) -> None:
    """Points `CURRENT` at a release, in one atomic replace or single put."""
    store.write(layout.CURRENT, f"{layout.check_release_id(release_id)}\n".encode())
