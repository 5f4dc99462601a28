"""The server's side of the node's internal API."""
