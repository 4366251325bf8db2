"""The gateway: the core behind gRPC, from options to drain."""
