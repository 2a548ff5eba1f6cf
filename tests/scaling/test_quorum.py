"""Two of three nodes die at once: the third serves no request, and says so in an error, until a person decides."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.fakes.model_server import FakeModelServer
from tests.servers.galera import GaleraCluster
from tests.servers.waiting import wait_until
from tests.support.books import check_books, check_nodes_agree
from tests.support.load import Answer, Load, known_photos
from tests.support.site import site_on

pytestmark = [pytest.mark.galera, pytest.mark.timeout(300)]

KNOWN_PHOTOS = 5
# What docs/scaling.md tells operators to say to the node that shall go on alone.
GO_ON_ALONE = "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'"


async def test_without_a_majority_nobody_is_served_and_nothing_is_lost(
    cluster: GaleraCluster, environment: dict[str, str], model_server: FakeModelServer, tmp_path: Path
) -> None:
    last, *others = cluster.nodes
    async with site_on(cluster, "without_a_majority", environment, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([site.start_proxy(), site.start_proxy()]))
        load = Load(site.url, await known_photos(site.url, KNOWN_PHOTOS))
        running = asyncio.create_task(load.run())

        async def wait_for_answer(status: int) -> None:
            seen = len(load.answers)

            def is_there() -> bool:
                return any(answer.status == status for answer in load.answers[seen:])

            await asyncio.to_thread(wait_until, is_there, f"an answer {status}", 60)

        await wait_for_answer(200)
        for node in others:
            assert node.process is not None
            node.process.send_signal(signal.SIGKILL)
        await wait_for_answer(503)
        await asyncio.sleep(2)
        last.query(GO_ON_ALONE)
        await wait_for_answer(200)
        for node in others:
            await asyncio.to_thread(cluster.start, node)
        load.stop()
        await running
        bad: list[Answer] = [answer for answer in load.answers if answer.status != 200]
        assert {answer.status for answer in bad} == {503}
        assert all(answer.retry_after for answer in bad)
        # First: what one node has committed may not have reached the one that is asked for the books.
        check_nodes_agree(site)
        check_books(site, load, others=KNOWN_PHOTOS)
