"""What ImageExampleGen is made of: sources and their listing, and how a shard of them becomes examples."""
