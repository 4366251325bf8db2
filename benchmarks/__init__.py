"""What is measured against what; each runs alone: python -m benchmarks.<name>."""
