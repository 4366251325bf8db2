"""Two processes of this machine train one network: what several hosts do."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from components.evaluation.exported_encoder import ExportedEncoder
from pipeline import distribution
from pipeline.config import STRATEGIES

WORKER = """
import json, pathlib, sys
from pipeline import trainer
from tests.pipeline.discs import fn_args_for
folder, transform, out = sys.argv[1:4]
fn_args = fn_args_for(pathlib.Path(folder), transform, pathlib.Path(out), epochs=2)
fn_args.custom_config["training"]["strategy"] = "multi_worker"
fn_args.custom_config["encoder"] |= json.loads(sys.argv[4])
trainer.run_fn(fn_args)
"""


def test_strategies_are_those_of_the_config():
    assert tuple(distribution.STRATEGIES) == STRATEGIES
    assert distribution.is_chief(distribution.open_strategy(""))


@pytest.mark.slow
def test_two_workers_train_one_network(trained_on, tmp_path):
    encoder = {"family": "ours", "ours": {"neighbors": 64}}
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for held in sockets:
        held.close()
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"}
        log = (tmp_path / f"worker-{index}.log").open("wb")
        command = [sys.executable, "-c", WORKER, str(trained_on.folder), trained_on.transform]
        command += [str(tmp_path), json.dumps(encoder)]
        workers.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        log.close()
    try:
        codes = [worker.wait(timeout=400) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    logs = [(tmp_path / f"worker-{index}.log").read_text()[-3000:] for index in range(2)]
    assert codes == [0, 0], "\n\n".join(logs)
    # The first of them has written the encoder, and nobody else.
    encoder_folder = tmp_path / "model"
    embeddings = ExportedEncoder(str(encoder_folder)).embed(trained_on.images[:4])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    history = json.loads((encoder_folder / "assets.extra/lookalike_training.json").read_text())["history"]
    assert len(history["loss"]) == 2
    assert list(pathlib.Path(tmp_path / "logs").rglob("events.out*"))
