"""From a source corpus to batches."""
