"""The wire between a root and its leaves: lookalike.leaf.v1."""
