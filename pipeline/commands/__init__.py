"""Subcommands of `lookalike` that are at home in the pipeline environment."""
