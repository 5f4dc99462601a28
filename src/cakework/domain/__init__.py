"""Nouns, states and pure decisions, shared by server and node. No input or output here."""
