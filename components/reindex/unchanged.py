"""How the steps of a reindex tell each other that there is nothing to do.

No runner can be relied on to leave out the rest of a pipeline (open-source Kubeflow may not), so each step writes this
mark in the place of its output, and the next one passes it on.
"""

import json

from serving.storage import open_store

UNCHANGED = "unchanged.json"


def mark_unchanged(uri: str, release_id: str) -> None:
    """Says in the artifact at `uri` that the collection is what this release holds."""
    open_store(uri).write(UNCHANGED, (json.dumps({"release_id": release_id}) + "\n").encode())


def unchanged_since(uri: str) -> str | None:
    """Returns the release that holds the collection already, or None where the artifact at `uri` says nothing."""
    try:
        return str(json.loads(open_store(uri).read(UNCHANGED))["release_id"])
    except FileNotFoundError:
        return None


def passed_on(source: str, target: str) -> bool:
    """Passes on what the artifact at `source` says, to the one at `target`; returns whether there is nothing to do."""
    release_id = unchanged_since(source)
    if release_id is not None:
        mark_unchanged(target, release_id)
    return release_id is not None
