"""What EncoderEvaluator is made of: metrics, references, samples, gates, pictures."""
