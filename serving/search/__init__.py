"""The core: a query in, its nearest neighbours out. Knows neither gRPC nor protobuf."""
