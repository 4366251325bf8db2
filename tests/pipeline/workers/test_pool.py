"""Beam jobs on real worker processes, some of which are killed."""

import os
import pathlib
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.workers import group as worker_group
from pipeline.workers.pool import WorkerPool
from tests.pipeline.workers.jobs import Refuse, RefuseWhileBlocked, Remember, options, run_squares, running_pool

pytestmark = pytest.mark.slow


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with running_pool() as running:
        yield running


def squares(pool: WorkerPool, folder: pathlib.Path, lives: int) -> set[int]:
    """Runs the job with so many deaths; returns the ids of the processes that worked, once what they did is right."""
    (folder / "lives").mkdir()
    (folder / "output").mkdir()
    for life in range(lives):
        (folder / "lives" / str(life)).touch()
    groups = run_squares(options(pool.address), 40, folder / "lives", folder / "output")
    found = {key: sorted(square for square, _ in pairs) for key, pairs in groups.items()}
    assert found == {key: [number * number + 1000 for number in range(key, 40, 3)] for key in range(3)}
    return {pid for pairs in groups.values() for _, pid in pairs}


def test_two_processes_share_a_job_and_each_element_is_worked_on_once(pool, tmp_path):
    pids = squares(pool, tmp_path, lives=0)
    [group] = pool.groups.values()
    assert pids <= {tally.pid for tally in group.tallies}
    assert [tally.died for tally in group.tallies] == [0, 0]


def test_a_killed_process_costs_its_part_another_attempt_and_leaves_nothing_behind(pool, tmp_path):
    squares(pool, tmp_path, lives=1)
    [group] = pool.groups.values()
    assert sum(tally.died for tally in group.tallies) == 1


def test_a_part_that_kills_every_process_fails_the_job(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_group, "MOST_ATTEMPTS", 2)
    with pytest.raises(RuntimeError, match="died 2 times"):
        squares(pool, tmp_path, lives=2)


def test_what_the_jobs_code_raises_and_what_cannot_be_divided_fail_it_with_the_reason(pool):
    with (
        pytest.raises(RuntimeError, match="thirteen is refused"),
        beam.Pipeline(options=PipelineOptions(options(pool.address))) as pipeline,
    ):
        _ = pipeline | beam.Create(range(20)) | beam.ParDo(Refuse())
    with (
        pytest.raises(RuntimeError, match="keeps state"),
        beam.Pipeline(options=PipelineOptions(options(pool.address))) as pipeline,
    ):
        _ = pipeline | beam.Create([(1, 1)]) | beam.ParDo(Remember())


def test_a_job_that_fails_leaves_no_process_at_work(pool, tmp_path):
    with (
        pytest.raises(RuntimeError, match="thirteen is refused"),
        beam.Pipeline(options=PipelineOptions(options(pool.address))) as pipeline,
    ):
        _ = pipeline | beam.Create(range(20)) | beam.Reshuffle() | beam.ParDo(RefuseWhileBlocked(str(tmp_path / "0")))
    [group] = pool.groups.values()
    pool.stop()
    for tally in group.tallies:
        with pytest.raises(ProcessLookupError):
            os.kill(tally.pid, 0)
