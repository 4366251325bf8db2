"""Runs in the checks environment: documents from stdin (JSON), what their schemas say of them to stdout (JSON).

.venv/checks/bin/python tests/kubernetes/schema_faults.py 1.33 1.35 < documents.json
"""

import json
import sys
import warnings

import kubernetes_validate


def main() -> None:
    """Writes a list of [version, kind, name, fault]; `no schema` for what is not Kubernetes' own."""
    warnings.simplefilter("ignore")
    faults = []
    for document in json.load(sys.stdin):
        for version in sys.argv[1:]:
            about = [version, document["kind"], document["metadata"]["name"]]
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                faults.append([*about, "no schema"])
            except kubernetes_validate.ValidationError as error:
                faults.append([*about, f"{'.'.join(map(str, error.path))}: {error.message}"])
    json.dump(faults, sys.stdout)


if __name__ == "__main__":
    main()
