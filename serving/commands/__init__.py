"""Subcommands of `lookalike` that are at home in the serving environment."""
