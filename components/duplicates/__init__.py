"""What near-duplicates are found by in the build: hashes of what images look like, pairs of them, groups of pairs."""
