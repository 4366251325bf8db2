"""What Embedder is made of: reading examples, the encoder, the cache, the parts it writes."""
