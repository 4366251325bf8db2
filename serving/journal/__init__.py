"""The journal of a serving root: every upsert and delete, durable before it is acknowledged, until a release has it."""
