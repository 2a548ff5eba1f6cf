"""One of two instances is killed under load: the other serves on, and nothing is lost or doubled."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.fakes.model_server import FakeModelServer
from tests.servers.galera import GaleraCluster
from tests.support.books import check_books, check_nodes_agree
from tests.support.load import PATIENCE_SECONDS, Load, known_photos, report
from tests.support.site import site_on

pytestmark = [pytest.mark.galera, pytest.mark.timeout(300)]

KNOWN_PHOTOS = 20
# So that some calls are under way when it happens.
MODEL_SECONDS = 0.5


async def test_a_killed_instance_costs_its_own_requests_only(
    cluster: GaleraCluster, environment: dict[str, str], model_server: FakeModelServer, tmp_path: Path
) -> None:
    model_server.delay_seconds = MODEL_SECONDS
    async with site_on(cluster, "killed_instance", environment, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([site.start_proxy(), site.start_proxy()]))
        load = Load(site.url, await known_photos(site.url, KNOWN_PHOTOS))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(4)
        killed_at = time.monotonic()
        # gunicorn and its worker at once: neither can release anything.
        os.killpg(site.instances[0].pid, signal.SIGKILL)
        await asyncio.sleep(4)
        load.stop()
        await running
        report(load, killed_at, [])
        bad = [answer for answer in load.answers if answer.status != 200]
        # What nginx says of a request that it had handed over.
        assert {answer.status for answer in bad} <= {502}
        assert all(abs(answer.answered_at - killed_at) < 1 for answer in bad)
        # Also those that only the killed one knew of; their leases have no living owner.
        async with httpx2.AsyncClient(base_url=f"{site.url}/api/v1", timeout=PATIENCE_SECONDS) as client:
            for photo in load.photos:
                answer = await client.post("/classify", files={"image": photo})
                assert answer.status_code == 200, answer.text
        # First: what one node has committed may not have reached the one that is asked for the books.
        check_nodes_agree(site)
        check_books(site, load, others=KNOWN_PHOTOS + len(load.photos))
        # A call whose asker died is made again, and no other: each belongs to a request that got no answer.
        died = model_server.call_count - KNOWN_PHOTOS - len(load.photos)
        print(f"{died} calls were made again")
        assert 0 <= died <= len(bad)
