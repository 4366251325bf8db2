"""A small server over TensorFlow's own runtime that speaks TF Serving's API, for one machine."""
