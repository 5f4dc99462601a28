"""The control plane: parses what strangers send, keeps records, and never needs root."""
