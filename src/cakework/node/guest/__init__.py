"""The program inside every microVM, as the node sees it. Its protocol: guest/PROTOCOL.md."""
