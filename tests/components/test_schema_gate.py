import pathlib

import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.schema_gate import AnomalyError, SchemaGate


def statistics_of(rows):
    import pandas

    return tfdv.generate_statistics_from_dataframe(pandas.DataFrame(rows), n_jobs=1)


def run_gate(tmp_path: pathlib.Path, rows, anomalies=None, accept_changes=0):
    """Runs the gate on rows as a pipeline would; returns the schema file that it leaves for the next run."""
    made = {}
    for name, kind in (
        ("statistics", standard_artifacts.ExampleStatistics),
        ("schema", standard_artifacts.Schema),
        ("anomalies", standard_artifacts.ExampleAnomalies),
        ("accepted", standard_artifacts.Schema),
    ):
        made[name] = kind()
        made[name].uri = str(tmp_path / name)
        (tmp_path / name / "Split-train").mkdir(parents=True, exist_ok=True)
    for name in ("statistics", "anomalies"):
        made[name].split_names = artifact_utils.encode_split_names(["train"])
    stats = statistics_of(rows)
    (tmp_path / "statistics/Split-train/FeatureStats.pb").write_bytes(stats.SerializeToString())
    found = (anomalies or anomalies_pb2.Anomalies()).SerializeToString()
    (tmp_path / "anomalies/Split-train/SchemaDiff.pb").write_bytes(found)
    tfdv.write_schema_text(tfdv.infer_schema(stats), str(tmp_path / "schema/schema.pbtxt"))
    previous = tmp_path / "kept" / "schema.pbtxt"
    SchemaGate.test_call(**made, previous=str(previous), accept_changes=accept_changes, code="x")
    return previous


def test_a_first_run_keeps_its_schema_for_the_next(tmp_path):
    previous = run_gate(tmp_path, {"item_id": ["a", "b"], "width": [28, 28]})
    names = {feature.name for feature in tfdv.load_schema_text(str(previous)).feature}
    assert names == {"item_id", "width"}
    assert tfdv.load_schema_text(str(tmp_path / "accepted/schema.pbtxt")) == tfdv.load_schema_text(str(previous))


def test_new_ids_and_new_labels_are_no_anomaly(tmp_path):
    run_gate(tmp_path, {"item_id": ["a", "b"], "label": ["cat", "cat"]})
    previous = run_gate(tmp_path, {"item_id": ["c", "d"], "label": ["dog", "cat"]})
    assert previous.exists()


def test_an_item_without_a_label_is_no_anomaly_and_a_collection_that_lost_its_labels_is(tmp_path):
    run_gate(tmp_path, {"item_id": ["a", "b"], "label": ["cat", "cat"]})
    run_gate(tmp_path, {"item_id": ["c", "d"], "label": ["dog", None]})
    with pytest.raises(AnomalyError, match=r"previous run: label: .*"):
        run_gate(tmp_path, {"item_id": ["c", "d"]})


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"item_id": ["c", "d"]}, "price"),
        ({"item_id": ["c", "d"], "price": ["dear", "cheap"]}, "price"),
        ({"item_id": ["c", "d"], "price": [1.0, 2.0], "size": [1, 2]}, "size"),
    ],
)
def test_a_lost_a_new_and_a_changed_feature_stop_the_run(tmp_path, rows, named):
    previous = run_gate(tmp_path, {"item_id": ["a", "b"], "price": [1.0, 2.0]})
    kept = previous.read_bytes()
    with pytest.raises(AnomalyError, match=f"previous run: {named}: .*"):
        run_gate(tmp_path, rows)
    assert previous.read_bytes() == kept
    run_gate(tmp_path, rows, accept_changes=1)
    assert previous.read_bytes() != kept


def test_what_example_validator_found_stops_the_run(tmp_path):
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["image"].description = "The feature was not present."
    with pytest.raises(AnomalyError, match="train split: image: The feature was not present"):
        run_gate(tmp_path, {"item_id": ["a"]}, anomalies)
