"""The node's internal API: HTTP on a unix socket. See docs/dev/node.md."""
