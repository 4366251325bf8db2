"""The gateway and its parts, the release format, the model server for one machine, the client."""
