"""The reindex pipeline: what has changed among the images, into a new release, with the encoder that is served."""

from typing import Any

from tfx import v1 as tfx

from components.fingerprint import code_fingerprint
from components.image_example_gen import ImageExampleGen
from components.release_encoder import ReleaseEncoder
from pipeline.beam_options import set_step_options, with_nothing_staged
from pipeline.config import PipelineConfig
from pipeline.pipeline import ingest_options
from pipeline.release_tail import release_tail


def create_reindex_pipeline(
    config: PipelineConfig, *, metadata: Any = None, reindex_lease: int = 0, root: str = ""
) -> tfx.dsl.Pipeline:
    """Returns the pipeline that brings the current release up to date with its images.

    It needs no earlier run: what it builds on is read from the serving root. Nothing in it is answered from a cache.

    metadata: the connection of a runner that keeps MLMD itself. reindex_lease: the number of the lease that its caller
    holds on the serving root; 0 where whatever starts it sees to it that there is one at a time. root: where its
    artifacts are kept; by default `<config.root>/reindex`.
    """
    code = code_fingerprint()

    # The encoder that CURRENT names, and what the release holds already.
    encoder = ReleaseEncoder(
        serving_root=config.serving_root, encoder_version=config.reindex.encoder_version, code=code
    )
    blessing, base = encoder.outputs["infra_blessing"], encoder.outputs["base"]

    # The listing beside the release: only what is new or has changed is read.
    example_gen = ImageExampleGen(
        **ingest_options(config.ingest),
        serving_root=config.serving_root,
        base=base,
        max_removed_share=config.reindex.max_removed_share,
        rebuild=config.reindex.rebuild,
        code=code,
    )

    # What was read is embedded; of the rest the release has the embeddings. It is published where CURRENT is still the
    # release that all this was built on.
    tail = release_tail(
        config,
        name=f"{config.name}-reindex",
        example_gen=example_gen,
        infra_blessing=blessing,
        base=base,
        publishing={"infra_blessing": blessing, "reindex_lease": reindex_lease},
        code=code,
    )
    components = [encoder, example_gen, *tail]
    set_step_options(config.step_beam_args, components)
    return tfx.dsl.Pipeline(
        pipeline_name=f"{config.name}-reindex",
        pipeline_root=root or f"{config.root}/reindex",
        components=components,
        enable_cache=False,
        metadata_connection_config=metadata,
        beam_pipeline_args=with_nothing_staged(config.beam_args),
    )
