"""The gateway seen from outside: metrics, drift and traces. What they mean, and what to do: docs/monitoring.md."""
