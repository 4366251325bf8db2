"""Stops a run whose examples have anomalies: against their own schema, and against the one of the run before."""

import logging

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx import v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics, Schema

from components import features

logger = logging.getLogger(__name__)

_REMEDY = (
    "Look at the images or the manifest that brought them. If the change is meant, run once with "
    "evaluation.accept_schema_changes=true; the schema of that run is what later runs are held to."
)


class AnomalyError(ValueError):
    """Examples that break their schema; names every feature and what is wrong with it."""


def describe(anomalies: anomalies_pb2.Anomalies, source: str) -> list[str]:
    """Returns a line for each anomaly, sorted by feature; none where all is well."""
    found = [f"{source}: dataset: {reason.description}" for reason in anomalies.dataset_anomaly_info.reason]
    return found + [
        f"{source}: {feature}: {info.description}" for feature, info in sorted(anomalies.anomaly_info.items())
    ]


def comparable(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """Returns `schema` without the values it saw: a collection grows, so new ids and new labels are no anomaly.

    What is left: which features there are, their types, shapes and presence. Of the label not the last two: any item
    may be without one, such as one that was upserted, and training never reads it.
    """
    relaxed = schema_pb2.Schema()
    relaxed.CopyFrom(schema)
    for feature in relaxed.feature:
        feature.ClearField("domain_info")
        feature.ClearField("domain")
        feature.ClearField("string_domain")
        feature.ClearField("int_domain")
        if feature.name == features.LABEL:
            feature.ClearField("shape")
            feature.presence.ClearField("min_fraction")
    del relaxed.string_domain[:]
    return relaxed


@tfx.dsl.components.component
def SchemaGate(
    statistics: tfx.dsl.components.InputArtifact[ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[Schema],
    anomalies: tfx.dsl.components.InputArtifact[ExampleAnomalies],
    accepted: tfx.dsl.components.OutputArtifact[Schema],
    previous: tfx.dsl.components.Parameter[str],
    accept_changes: tfx.dsl.components.Parameter[int],
    code: tfx.dsl.components.Parameter[str],
) -> None:
    """Passes the schema on as `accepted`, or raises AnomalyError.

    previous: the file in which a run leaves its schema for the next. code: the fingerprint of our code.
    """
    del code
    found: list[str] = []
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        path = f"{anomalies.uri}/Split-{split}/SchemaDiff.pb"
        with fileio.open(path, "rb") as handle:
            found += describe(anomalies_pb2.Anomalies.FromString(handle.read()), f"{split} split")
    current = tfdv.load_schema_text(f"{schema.uri}/schema.pbtxt")
    if fileio.exists(previous) and not accept_changes:
        before = comparable(tfdv.load_schema_text(previous))
        for split in artifact_utils.decode_split_names(statistics.split_names):
            stats = tfdv.load_stats_binary(f"{statistics.uri}/Split-{split}/FeatureStats.pb")
            found += describe(tfdv.validate_statistics(stats, before), f"{split} split against the previous run")
    if found:
        raise AnomalyError(f"{len(found)} anomalies in the examples.\n  " + "\n  ".join(found) + f"\n{_REMEDY}")
    # A local runner makes the folders of outputs, Kubeflow doesn't.
    fileio.makedirs(accepted.uri)
    tfdv.write_schema_text(current, f"{accepted.uri}/schema.pbtxt")
    fileio.makedirs(previous.rpartition("/")[0])
    tfdv.write_schema_text(current, previous)
    logger.info("no anomalies; the schema is kept in %s", previous)
