"""What ServingValidator is made of: the complete encoder, and the server that it is tried in."""
