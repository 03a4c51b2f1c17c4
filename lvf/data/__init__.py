"""The road from a source corpus to batches."""
