"""The routers that are connected: what they are told, and asked, and ask."""
