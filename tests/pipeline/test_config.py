import dataclasses
import json
import pathlib
import re

import pytest
import yaml

from pipeline import config

ROOT = pathlib.Path(__file__).parents[2]


def test_defaults_are_valid():
    assert config.load(None) == config.PipelineConfig()


def test_overrides_change_single_options():
    loaded = config.load(None, ["training.epochs=3", "encoder.filters=[8, 16]", "training.learning_rate=1e-3"])
    assert loaded.training.epochs == 3
    assert loaded.encoder.filters == (8, 16)
    assert loaded.training.learning_rate == 0.001


def test_flags_override_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training:\n  epochs: 5\n  seed: 9\n")
    loaded = config.load(str(path), ["training.epochs=7"])
    assert (loaded.training.epochs, loaded.training.seed) == (7, 9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.epochs must be in [1, 10000], got 0."),
        ("training.epochs=three", "training.epochs must be int, got 'three'."),
        ("training.epochs=true", "training.epochs must be int, got True."),
        ("training.epoch=3", "unknown option training.epoch; there are training.epochs"),
        ("encoder.height=8", "encoder.height must be 0 or in [16, 256], got 8."),
        ("encoder.family=perceptron", "encoder.family must be one of"),
        ("encoder.sparse.penalty=l2", "encoder.sparse.penalty must be one of ('kl', 'l1'), got 'l2'."),
        ("encoder.augment.shift=0.9", "encoder.augment.shift must be in [0, 0.5], got 0.9."),
        ("encoder.descriptors=[smell]", "encoder.descriptors must be some of"),
        ("ingest.max_skipped_share=1.5", "ingest.max_skipped_share must be in [0, 1], got 1.5."),
        ("index.recall_target=0.9", "index.recall_target must be at least index.min_recall, got 0.9 and 0.99."),
        ("index.recall_target=2", "index.recall_target must be in (0, 1], got 2.0."),
        ("index.bytes_per_item=-1", "index.bytes_per_item must be at least 0, got -1."),
        ("index.tuning.method=guess", "index.tuning.method must be one of ('search', 'rule'), got 'guess'."),
        ("index.tuning.sample=10", "index.tuning.sample must be at least 1000, got 10."),
        ("index.tuning.leaves=[2, 1]", "index.tuning.leaves must be ascending numbers above 0, got [2.0, 1.0]."),
        ("index.tuning.hash_dimensions=[0]", "index.tuning.hash_dimensions must be at least 1, got 0."),
        ("index.shards=3", "index.shards must divide ingest.shards, got 3 and 8."),
        ("training=3", "training is a section of options, got 3."),
        ("training.epochs", "an override must read option=value, got 'training.epochs'."),
        ("encoder.filters=3", "encoder.filters must be a list, got 3."),
    ],
)
def test_wrong_options_are_refused_by_name(override, message):
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        config.load(None, [override])


def test_the_documented_file_holds_every_option_with_its_default():
    path = ROOT / "configs" / "default.yaml"
    assert config.load(str(path)) == config.PipelineConfig()
    holds_every_option(yaml.safe_load(path.read_text()), config.PipelineConfig())


def holds_every_option(told, section):
    assert set(told) == {option.name for option in dataclasses.fields(section)}
    for option in dataclasses.fields(section):
        value = getattr(section, option.name)
        if dataclasses.is_dataclass(value):
            holds_every_option(told[option.name], value)


def test_an_encoder_comes_back_from_its_json():
    encoder = config.load(None, ["encoder.filters=[8]", "encoder.ours.temperature=0.1"]).encoder
    assert config.encoder_config(json.loads(json.dumps(dataclasses.asdict(encoder)))) == encoder
