"""`python -m bench.sockets URL --pid PID [--sockets 1000]`: what idle WebSockets cost the process that serves them.

It signs an account up at a service that runs already, and reads the memory of its one worker from /proc.
"""

import argparse
import asyncio
import json
import secrets
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

# At once, while they are opened.
OPENING = 50
# For what is done once, at the first sockets, and for what is freed a little later.
WARM_UP_SOCKETS = 10
SETTLE_SECONDS = 3.0


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sockets", description=__doc__)
    parser.add_argument("url", help="of the service, such as http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="the process that serves: a worker, not its master")
    parser.add_argument("--sockets", type=int, default=1000)
    options = parser.parse_args()
    try:
        asyncio.run(_measure(options.url, options.pid, options.sockets))
    except (OSError, httpx2.HTTPError, InvalidHandshake) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


async def _measure(url: str, pid: int, sockets: int) -> None:
    token = await _token(url)
    address = f"{url.replace('http', 'ws', 1)}/ws/inference?token={token}"
    gate = asyncio.Semaphore(OPENING)
    async with AsyncExitStack() as stack:

        async def open_one() -> None:
            async with gate:
                # As a client of ours would be: it may ask for compression, and answers pings.
                connection = await stack.enter_async_context(connect(address, proxy=None))
                assert json.loads(await connection.recv())["event"] == "hello"  # noqa: S101 - else nothing is measured

        await asyncio.gather(*(open_one() for _ in range(WARM_UP_SOCKETS)))
        await asyncio.sleep(SETTLE_SECONDS)
        before = _resident_bytes(pid)
        await asyncio.gather(*(open_one() for _ in range(sockets)))
        await asyncio.sleep(SETTLE_SECONDS)
        after = _resident_bytes(pid)
    megabyte = 1024 * 1024
    print("| sockets | before MB | after MB | difference MB | KB each |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| {sockets} | {before / megabyte:.1f} | {after / megabyte:.1f} | {(after - before) / megabyte:.1f} |"
        f" {(after - before) / 1024 / sockets:.1f} |"
    )


async def _token(url: str) -> str:
    name = f"bench-{secrets.token_hex(6)}"
    person = {"username": name, "email": f"{name}@example.com", "password": secrets.token_hex(16)}
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        (await client.post("/users/", json=person)).raise_for_status()
        answer = await client.post("/users/token", data=person)
        answer.raise_for_status()
        return str(answer.json()["access_token"])


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    sys.exit(main())
