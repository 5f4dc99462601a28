"""Made of _async/__init__.py by generate_sync.py; edit that.

The client for asyncio and trio; the one without is made of it by generate_sync.py."""
