import argparse
import pathlib
import types
from collections.abc import Iterator

import pytest
import yaml

from pipeline.commands import schedule, submit
from pipeline.kubeflow_client import check_cron, read_compiled
from pipeline.option_checks import ConfigError
from tests.pipeline.kubeflow_api import KubeflowApi

CRON = "0 0 3 * * 0"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[KubeflowApi]:
    with KubeflowApi() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
        monkeypatch.setenv("LOOKALIKE_KFP_TOKEN", "a-token")
        yield server


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """As small a pipeline as the SDK takes, with a parameter of each type."""
    return write(tmp_path / "training.yaml", "image:1")


def write(path: pathlib.Path, image: str) -> pathlib.Path:
    kinds = {"epochs": "NUMBER_INTEGER", "images": "STRING", "rate": "NUMBER_DOUBLE"}
    spec = {
        "pipelineInfo": {"name": "lookalike"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": {"one": {"container": {"image": image}}}},
        "components": {"One": {"executorLabel": "one"}},
        "root": {
            "dag": {"tasks": {"One": {"taskInfo": {"name": "One"}, "componentRef": {"name": "One"}}}},
            "inputDefinitions": {"parameters": {name: {"parameterType": kind} for name, kind in kinds.items()}},
        },
    }
    path.write_text(yaml.safe_dump(spec))
    return path


def lookalike(command: types.ModuleType, *flags: str) -> int:
    """Runs a command in this process, as its entry point does."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(flags))


def test_a_run_is_of_a_version_that_is_uploaded_once(api, file, capsys):
    assert lookalike(submit, "--file", str(file), "--parameter", "epochs=30", "--parameter", "rate=1") == 0
    assert capsys.readouterr().out == f"run {api.runs[0]['run_id']}\n"
    compiled = read_compiled(str(file))
    assert [pipeline["display_name"] for pipeline in api.pipelines] == ["lookalike"]
    assert api.versions[-1]["display_name"] == compiled.version
    assert api.versions[-1]["pipeline_spec"]["pipeline_spec"] == yaml.safe_load(file.read_text())
    (run,) = api.runs
    assert run["pipeline_version_reference"] == {
        "pipeline_id": api.pipelines[0]["pipeline_id"],
        "pipeline_version_id": api.versions[-1]["pipeline_version_id"],
    }
    assert run["runtime_config"]["parameters"] == {"epochs": 30, "rate": 1.0}
    assert run["experiment_id"] == api.experiments[0]["experiment_id"]
    assert api.tokens == {"Bearer a-token"}

    # Again: another run, of the same version in the same experiment.
    uploads = len(api.versions)
    assert lookalike(submit, "--file", str(file), "--service-account", "runner", "--pipeline-root", "gs://b/r") == 0
    assert len(api.versions) == uploads and len(api.pipelines) == len(api.experiments) == 1
    assert api.runs[1]["service_account"] == "runner"
    assert api.runs[1]["runtime_config"]["pipeline_root"] == "gs://b/r"


def test_another_content_is_another_version_of_the_same_pipeline(api, file):
    for image in ("image:1", "image:2", "image:3", "image:1"):
        write(file, image)
        assert lookalike(submit, "--file", str(file), "--upload-only") == 0
    names = [version["display_name"] for version in api.versions]
    # The first is the server's own, of the pipeline's name.
    assert names[0] == "lookalike" and len(names) == len(set(names)) == 4
    assert len(api.pipelines) == 1 and not api.runs


def test_a_schedule_is_made_once_and_replaced_when_it_differs(api, file, capsys):
    def tell(*flags: str) -> str:
        assert lookalike(schedule, "--file", str(file), "--name", "retrain", "--cron", CRON, *flags) == 0
        return capsys.readouterr().out.split()[-1]

    first = tell()
    (job,) = api.recurring
    assert job["trigger"]["cron_schedule"]["cron"] == CRON
    assert (job["max_concurrency"], job["no_catchup"], job["mode"]) == (1, True, "ENABLE")
    assert tell() == first and len(api.recurring) == 1

    # Others, of other names, stay.
    other = {**job, "recurring_run_id": "other", "display_name": "reindex"}
    api.recurring.extend([other, {**other, "recurring_run_id": "another", "display_name": "nightly"}])
    second = tell("--parameter", "epochs=3")
    assert second != first
    assert [each["recurring_run_id"] for each in api.recurring] == ["other", "another", second]
    assert api.recurring[-1]["runtime_config"]["parameters"] == {"epochs": 3}
    created, deleted = (api.requests.index(call) for call in (("POST", "/apis/v2beta1/recurringruns"), *deletions(api)))
    assert created < deleted

    # A disabled one doesn't run; one that a person made by hand may catch up, or overlap.
    for change in ({"mode": "DISABLE"}, {"no_catchup": False}, {"max_concurrency": "3"}):
        api.recurring[-1].update(change)
        before = api.recurring[-1]["recurring_run_id"]
        assert tell("--parameter", "epochs=3") != before
        assert len(api.recurring) == 3
    # Two of one name, left by one that was killed between making and deleting.
    api.recurring.append({**api.recurring[-1], "recurring_run_id": "twin"})
    tell("--parameter", "epochs=3")
    assert len(api.recurring) == 3

    # Another file is another version.
    write(file, "image:2")
    before = api.recurring[-1]["recurring_run_id"]
    assert tell("--parameter", "epochs=3") != before


def deletions(api: KubeflowApi) -> list[tuple[str, str]]:
    return [call for call in api.requests if call[0] == "DELETE"]


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("epoch=3", "no parameter epoch; there are epochs, images, rate"),
        ("epochs=many", "parameter epochs must be of type int, got 'many'"),
        ("epochs", "NAME=VALUE, got 'epochs'"),
    ],
)
def test_a_wrong_parameter_is_told_before_anything_is_sent(api, file, capsys, parameter, message):
    assert lookalike(submit, "--file", str(file), "--parameter", parameter) == 2
    assert message in capsys.readouterr().err
    assert not api.requests


def test_what_is_no_compiled_pipeline_is_refused(tmp_path, capsys):
    other = tmp_path / "other.yaml"
    for text in ("just text", "- 1", "root: {}", "", "a: ["):
        other.write_text(text)
        with pytest.raises(ConfigError, match="must be what `lookalike compile` writes"):
            read_compiled(str(other))
    assert lookalike(submit, "--file", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_a_refusal_is_told_in_the_servers_words(api, file, capsys):
    api.refuse = (403, "user has no access to namespace ml")
    assert lookalike(submit, "--file", str(file)) == 1
    assert capsys.readouterr().err.endswith(
        "lookalike submit: Kubeflow answered 403 Forbidden: user has no access to namespace ml\n"
    )
    assert lookalike(schedule, "--file", str(file), "--name", "retrain", "--cron", CRON) == 1
    assert not api.pipelines and not api.recurring


@pytest.mark.parametrize("cron", [CRON, "0 */30 * * * *", "@daily", "@every 6h"])
def test_a_cron_of_kubeflow_is_taken(cron):
    check_cron(cron)


def test_a_cron_of_unix_is_told_what_is_missing():
    with pytest.raises(ConfigError, match=r"six fields.*did you mean '0 0 3 \* \* 0'"):
        check_cron("0 3 * * 0")
    for cron in ("", "daily", "@sometimes", "0 0 3 * * 0 2026"):
        with pytest.raises(ConfigError, match="cron must have six fields"):
            check_cron(cron)
