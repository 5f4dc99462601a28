"""A plain asynchronous function of requests."""

from pathlib import Path


async def http(request, context):
    if request.path == "/gone":
        return await gone(request)
    return echo(request)


async def echo(request):
    async for part in request.stream():
        yield part


async def gone(request):
    import asyncio

    file = Path(request.query["file"])
    file.write_text("begun")
    try:
        await asyncio.Event().wait()
    finally:
        file.write_text("gone")
