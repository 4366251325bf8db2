"""The encoder behind TF Serving's wire, and what stands around it: batches, a time limit, a circuit breaker."""
