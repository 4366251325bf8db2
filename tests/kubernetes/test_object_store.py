"""The bucket's files say the same as the volume's, but where everything lies."""

import yaml

from tests.kubernetes.rendered import config_file, render


def test_only_the_place_differs() -> None:
    bucket, volume = render("tests/object-store"), render("overlays/local")
    place = "gs://example-lookalike/serving"
    for name, file in (("gateway", "gateway.yaml"), ("reindex", "reindex.yaml")):
        ours, other = (yaml.safe_load(config_file(objects, name, file)) for objects in (bucket, volume))
        assert (ours.pop("serving_root"), other.pop("serving_root")) == (place, "/serving-root")
        assert ours.pop("cache", "/cache") == "/cache"
        assert ours == other
    ours, other = (config_file(objects, "tensorflow-serving", "models.config") for objects in (bucket, volume))
    assert ours == other.replace("/serving-root", place)
