"""Which engine Beam's steps run on. No runner is left to Beam to choose: it would download one."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.option_checks import require

DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
# On this machine, in this process.
DIRECT_ARGS = (f"--runner={DIRECT_RUNNER}", "--direct_running_mode=in_memory", "--direct_num_workers=1")
# The steps that run on Beam, of both pipelines.
BEAM_STEPS = (
    *("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator"),
    *("Embedder", "IndexBuilder", "IndexEvaluator"),
)

# Where Beam's code runs in an environment that is there already, and looks at no image.
_IN_PLACE = ("EXTERNAL", "LOOPBACK", "PROCESS")

# Beam's names of its runner for one machine. It tries Prism first, and downloads it where it isn't there.
_CHOOSING = ("directrunner", "switchingdirectrunner")


def check_runner(where: str, arguments: Sequence[str]) -> None:
    """Raises ConfigError where Beam's options, called `where`, leave it to Beam which runner to get."""
    runner = _parsed(arguments).runner
    chosen = runner.rpartition(".")[2].lower()
    require(
        bool(chosen) and chosen not in _CHOOSING,
        f"{where} must name a runner, and for the direct one --runner={DIRECT_RUNNER}: Beam would download another one;"
        f" got {runner or 'none'}.",
    )


def check_steps(steps: Mapping[str, Sequence[str]]) -> None:
    """Raises ConfigError unless all of `steps` are Beam's, and choose their runner if any."""
    for step, arguments in steps.items():
        require(step in BEAM_STEPS, f"step_beam_args.{step}: the steps on Beam are {', '.join(BEAM_STEPS)}.")
        if any(argument.startswith("--runner") for argument in arguments):
            check_runner(f"step_beam_args.{step}", arguments)


def with_nothing_staged(arguments: Sequence[str]) -> list[str]:
    """Returns Beam's options and, where workers hold our code already, one that keeps TFX from sending them its own.

    At each step of Beam it would else pack its installation, 50 MB that stay in the temporary folder. It doesn't where
    the workers have an image; the direct runner and an environment that is not Docker never look which.
    """
    parsed = _parsed(arguments)
    in_place = parsed.runner == DIRECT_RUNNER or parsed.environment_type in _IN_PLACE
    return [*arguments, *(["--sdk_container_image=none"] if in_place and not parsed.sdk_container_image else [])]


def set_step_options(steps: Mapping[str, Sequence[str]], components: Iterable[Any]) -> None:
    """Gives the components of a pipeline the options that are theirs alone; they come after those of all steps."""
    for component in components:
        arguments = steps.get(component.id, ())
        if arguments:
            component.executor_spec.add_beam_pipeline_args(list(arguments))


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--runner", "--environment_type", "--sdk_container_image"):
        parser.add_argument(name, default="")
    return parser.parse_known_args(list(arguments))[0]
