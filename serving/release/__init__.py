"""The release: encoder and index as one thing, written once, checked before it is served."""
