"""The client for asyncio and trio; the one without is made of it by generate_sync.py."""
