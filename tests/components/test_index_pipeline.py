"""The tail of the pipeline as TFX runs it: what is cached, and what always runs."""

import json
import pathlib

import numpy as np
import pytest
from tfx import v1 as tfx
from tfx.orchestration import metadata

from components.embedder import Embedder
from components.index_builder import IndexBuilder
from components.index_evaluator import IndexEvaluator
from components.publisher import Publisher
from pipeline.beam_options import DIRECT_ARGS, with_nothing_staged
from serving.release.current import read_current
from serving.release.reader import open_release
from serving.storage import open_store
from tests.components.tiny import Picture, make_encoder, make_examples, png


def run(root: pathlib.Path, examples, encoder, name: str, code: str = "code"):
    """Runs the tail with TFX's cache; returns the ids of the nodes that executed."""
    importers = [
        tfx.dsl.Importer(
            source_uri=artifact.uri,
            artifact_type=type(artifact),
            custom_properties={"blessed": 1, "has_model": 1},
        ).with_id(node)
        for node, artifact in (("examples", examples), ("blessing", encoder.blessing))
    ]
    given, blessing = (importer.outputs["result"] for importer in importers)
    serving_root = str(root / "serving")
    pusher = tfx.components.Pusher(
        infra_blessing=blessing,
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(root / "staging"))
        ),
    )
    embedder = Embedder(examples=given, infra_blessing=blessing, serving_root=serving_root, code=code)
    builder = IndexBuilder(embeddings=embedder.outputs["embeddings"], shards=2, code=code)
    evaluator = IndexEvaluator(index=builder.outputs["index"], embeddings=embedder.outputs["embeddings"], code=code)
    publisher = Publisher(
        pushed_model=pusher.outputs["pushed_model"],
        index=builder.outputs["index"],
        index_evaluation=evaluator.outputs["evaluation"],
        serving_root=serving_root,
        lineage=json.dumps({"pipeline": "tail"}),
        run=name,
        code=code,
    )
    database = root / "metadata.db"
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(database))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="tail",
            pipeline_root=str(root / "pipeline"),
            components=[*importers, pusher, embedder, builder, evaluator, publisher],
            enable_cache=True,
            metadata_connection_config=connection,
            beam_pipeline_args=with_nothing_staged(DIRECT_ARGS),
        )
    )
    with metadata.Metadata(connection) as store:
        executions = store.store.get_executions()
    # 3 is COMPLETE, 4 FAILED, 5 CACHED.
    done = [e for e in executions if e.last_known_state == e.COMPLETE]
    new = [e for e in done if e.id > run.seen]
    run.seen = max(e.id for e in executions)
    return {e.type.rpartition(".")[2] for e in new}


@pytest.mark.slow
def test_the_tail_of_the_pipeline_runs_once_and_then_only_looks(tmp_path):
    run.seen = 0
    encoder = make_encoder(tmp_path / "blessing")
    pictures = [Picture(f"{n}.png", png(n), "eval" if n % 3 == 0 else "train") for n in range(24)]
    examples = make_examples(tmp_path / "examples", pictures)
    own = {"Embedder", "IndexBuilder", "IndexEvaluator", "Publisher"}
    assert run(tmp_path, examples, encoder, "1") >= own
    store = open_store(tmp_path / "serving")
    first = read_current(store)
    opened = open_release(store, first)
    assert opened.manifest.index.count == 24
    assert opened.search(np.ones(16, np.float32), 3)
    opened.close()
    assert sum(encoder.calls()) == 24
    assert run(tmp_path, examples, encoder, "2") & (own | {"Pusher"}) == {"Publisher"}
    assert read_current(store) == first
    # Changed code makes everything again, but no embedding, and no release of the same content.
    assert run(tmp_path, examples, encoder, "3", code="other") >= own
    assert encoder.calls() == []
    assert read_current(store) == first
