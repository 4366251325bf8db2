import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from pipeline import trainer
from pipeline.config import TrainingConfig
from pipeline.encoder_config import EncoderConfig
from serving.storage import open_store


def test_run_fn_trains_and_exports(fn_args):
    trainer.run_fn(fn_args)
    info = json.loads((pathlib.Path(fn_args.serving_model_dir) / "assets.extra/lookalike_training.json").read_text())
    assert len(info["history"]["val_loss"]) == 2
    assert info["history"]["val_loss"][-1] < info["history"]["val_loss"][0]
    assert (info["family"], info["dimension"], info["channels"]) == ("convolutional", 4, 1)
    assert "serving_default" in tf.saved_model.load(fn_args.serving_model_dir).signatures
    assert list(pathlib.Path(fn_args.model_run_dir).rglob("events.out*"))


@pytest.mark.slow
def test_run_fn_exports_to_an_object_store(fn_args):
    # As on Kubeflow, where artifacts lie in a bucket.
    fn_args.serving_model_dir, fn_args.model_run_dir = "memory://trained/model", "memory://trained/logs"
    fn_args.custom_config["checkpoints"] = "memory://trained/checkpoints"
    trainer.run_fn(fn_args)
    files = {stat.path for stat in open_store("memory://trained").files("")}
    assert {"model/saved_model.pb", "model/assets.extra/lookalike_training.json"} <= files
    assert any(file.startswith("logs/") and "events.out" in file for file in files)
    assert not pathlib.Path("memory:").exists()


def test_the_schedule_of_the_lineage_decays_by_the_step():
    schedule = trainer.learning_rate(
        TrainingConfig(schedule="inverse_time", learning_rate=1e-3, epochs=20), steps_per_epoch=1875
    )
    assert float(schedule(0)) == pytest.approx(1e-3)
    assert float(schedule(37_500)) == pytest.approx(1e-3 / (1 + 1e-3 / 20 * 37_500))


def test_the_cosine_warms_up_and_ends_near_nothing():
    schedule = trainer.learning_rate(
        TrainingConfig(schedule="cosine", learning_rate=2e-3, epochs=10), steps_per_epoch=100
    )
    rates = [float(schedule(step)) for step in range(0, 1001, 50)]
    assert max(rates) == pytest.approx(2e-3, rel=1e-3)
    assert rates[0] < 1e-3 and rates[-1] < 1e-4


def test_a_small_collection_is_passed_over_more_often():
    training = TrainingConfig(epochs=10, batch_size=64, min_steps=600)
    assert trainer.steps_per_epoch(1, training) == 60
    assert trainer.steps_per_epoch(60_000, training) == 938


def test_one_step_in_all_has_a_schedule_too():
    assert float(trainer.learning_rate(TrainingConfig(schedule="cosine", epochs=1), steps_per_epoch=1)(0)) > 0


def test_the_checkpoint_key_knows_data_config_and_code(tmp_path):
    data = tmp_path / "examples"
    data.write_bytes(b"123")
    config = {"training": {"epochs": 2}, "code": "a"}
    key = trainer.checkpoint_key(config, [str(data)])
    assert key == trainer.checkpoint_key(dict(config), [str(data)])
    assert key != trainer.checkpoint_key({**config, "code": "b"}, [str(data)])
    data.write_bytes(b"1234")
    assert key != trainer.checkpoint_key(config, [str(data)])


def test_the_same_seed_trains_the_same_network(tmp_path):
    def losses(run):
        import keras

        keras.utils.set_random_seed(7)
        pixels = np.random.default_rng(0).random((32, 16, 16, 1), np.float32)
        dataset = tf.data.Dataset.from_tensor_slices((pixels, pixels)).batch(8)
        network = trainer.build(EncoderConfig(height=16, width=16, channels=1, dimension=3, filters=(4,)))
        return trainer.fit(
            network,
            dataset,
            dataset,
            TrainingConfig(epochs=2),
            steps_per_epoch=4,
            checkpoints=tmp_path / run / "backup",
            logs=tmp_path / run / "logs",
        )["loss"]

    np.testing.assert_allclose(losses("one"), losses("two"), rtol=1e-5)


RUN = """
import logging, pathlib, sys, time
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from pipeline import trainer
from tests.pipeline.discs import fn_args_for
trainer.run_fn(fn_args_for(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), epochs=int(sys.argv[4])))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_epoch_it_was_in(trained_on, tmp_path):
    command = [sys.executable, "-u", "-c", RUN, str(trained_on.folder), trained_on.transform, str(tmp_path), "400"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    seen = []
    for line in first.stdout:
        seen += re.findall(r"epoch (\d+) of", line)
        if seen[-1:] == ["2"]:
            # Epoch 3 is under way: its end would be the next line.
            first.send_signal(signal.SIGKILL)
            break
    # Epochs of this size are short: what ended before the signal arrived counts as done.
    seen += re.findall(r"epoch (\d+) of", first.stdout.read())
    assert first.wait() == -signal.SIGKILL
    last = int(seen[-1])
    assert 2 <= last < 400

    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    began = time.monotonic()
    for line in second.stdout:
        if found := re.findall(r"epoch (\d+) of", line):
            break
        assert time.monotonic() - began < 120
    second.kill()
    second.wait()
    second.stdout.close()
    first.stdout.close()
    assert int(found[0]) == last + 1
