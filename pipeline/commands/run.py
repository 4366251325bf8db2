"""(Being built.)"""

import argparse

HELP = "(being built)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    raise SystemExit("not built yet")
