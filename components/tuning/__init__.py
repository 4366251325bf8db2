"""The parameters of an index, found in the build: on a sample of one shard, then on that shard as it was built."""
