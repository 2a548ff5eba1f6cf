"""Two instances behind nginx on a Galera cluster of three nodes, one of which is killed: nothing is lost or doubled.

`make galera-test` runs it. deploy/haproxy.cfg is what leads each instance to the cluster; docs/scaling.md has the
figures that are measured here.
"""

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import migrate
from app.database.pipeline import run
from app.database.statements import Statement
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.servers.galera import GaleraCluster
from tests.support.books import check_books, check_nodes_agree
from tests.support.leases import process
from tests.support.load import PATIENCE_SECONDS, Load, known_photos, report
from tests.support.site import site_on

pytestmark = [pytest.mark.galera, pytest.mark.timeout(300)]

KNOWN_PHOTOS = 20
# docs/scaling.md: after a node has died, requests may take so long, or be answered 503.
FAILOVER_SECONDS = 15.0


@pytest.mark.parametrize(
    ("number", "end"),
    [(0, signal.SIGKILL), (2, signal.SIGKILL), (0, signal.SIGSTOP)],
    ids=["the-node-in-use-is-killed", "another-node-is-killed", "the-node-in-use-falls-silent"],
)
async def test_a_lost_node_costs_no_row(
    cluster: GaleraCluster,
    number: int,
    end: signal.Signals,
    environment: dict[str, str],
    model_server: FakeModelServer,
    tmp_path: Path,
) -> None:
    async with site_on(cluster, f"failover_{number}_{end}", environment, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([site.start_proxy(), site.start_proxy()]))
        load = Load(site.url, await known_photos(site.url, KNOWN_PHOTOS))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(4)
        node = cluster.nodes[number]
        assert node.process is not None
        node.process.send_signal(end)
        lost_at = time.monotonic()
        await asyncio.sleep(10)
        if end is not signal.SIGKILL:
            node.process.send_signal(signal.SIGKILL)
        back_at = time.monotonic()
        await asyncio.to_thread(cluster.start, node)
        rejoined_at = time.monotonic()
        # The proxies have gone back to it by then.
        await asyncio.sleep(5)
        load.stop()
        await running
        report(load, lost_at, [("node started", back_at), ("synced", rejoined_at)])
        bad = [answer for answer in load.answers if answer.status != 200]
        assert {answer.status for answer in bad} <= {503}
        assert all(answer.retry_after for answer in bad)
        assert all(lost_at < answer.answered_at < lost_at + FAILOVER_SECONDS for answer in bad)
        # Also those that were refused.
        async with httpx2.AsyncClient(base_url=f"{site.url}/api/v1", timeout=PATIENCE_SECONDS) as client:
            for photo in load.photos:
                answer = await client.post("/classify", files={"image": photo})
                assert answer.status_code == 200, answer.text
        # First: what one node has committed may not have reached the one that is asked for the books.
        check_nodes_agree(site)
        check_books(site, load, others=KNOWN_PHOTOS + len(load.photos))
        # A call is made again whose result could not be kept, and no other: who asked for it got a 503.
        again = model_server.call_count - KNOWN_PHOTOS - len(load.photos)
        assert 0 <= again <= len(bad)


async def test_instances_on_different_nodes_agree(
    cluster: GaleraCluster, environment: dict[str, str], model_server: FakeModelServer, tmp_path: Path
) -> None:
    """Not what we recommend, and what happens for a moment at each failover: transactions of two nodes collide."""
    async with site_on(cluster, "two_writers", environment, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([node.port for node in cluster.nodes[:2]]))
        load = Load(site.url, await known_photos(site.url, KNOWN_PHOTOS))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(10)
        load.stop()
        await running
        report(load, time.monotonic(), [])
        assert {answer.status for answer in load.answers} <= {200, 503}
        # First: what one node has committed may not have reached the one that is asked for the books.
        check_nodes_agree(site)
        check_books(site, load, others=KNOWN_PHOTOS)
        assert model_server.call_count == KNOWN_PHOTOS + len(load.photos)


async def test_repeats_on_different_nodes_count_once(
    cluster: GaleraCluster, environment: dict[str, str], model_server: FakeModelServer, tmp_path: Path
) -> None:
    """Two nodes may take the same key at the same time: one of the transactions is undone at its commit."""
    async with site_on(cluster, "two_repeats", environment, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([node.port for node in cluster.nodes[:2]]))
        hashes = await known_photos(site.url, KNOWN_PHOTOS)

        async def repeated(client: httpx2.AsyncClient, image_hash: str, key: str) -> set[str]:
            """The bodies of six requests at once, of which those that are told so try again."""

            async def one() -> str:
                while True:
                    body, headers = {"image_hash": image_hash}, {"Idempotency-Key": key}
                    answer = await client.post("/api/v1/classify/check-cache", json=body, headers=headers)
                    assert answer.status_code in {200, 503}, answer.text
                    if answer.status_code == 200:
                        return answer.text
                    await asyncio.sleep(float(answer.headers["Retry-After"]))

            return set(await asyncio.gather(*(one() for _ in range(6))))

        async with httpx2.AsyncClient(base_url=site.url, timeout=120) as client:
            bodies = await asyncio.gather(
                *(repeated(client, each, f"{each}-{number}") for each in hashes for number in range(5))
            )
        assert [len(each) for each in bodies] == [1] * (5 * KNOWN_PHOTOS)
        check_nodes_agree(site)
        counts = cluster.nodes[2].query(
            f"SELECT (SELECT COUNT(*) FROM {site.database}.request_log),"
            f" (SELECT SUM(requests) FROM {site.database}.stats_period),"
            f" (SELECT COUNT(*) FROM {site.database}.idempotent_answer),"
            f" (SELECT SUM(hit_count) FROM {site.database}.image_classification_cache)"
        )
        rows = KNOWN_PHOTOS + len(bodies)
        assert [tuple(map(int, row)) for row in counts] == [(rows, rows, len(bodies), rows)]
        assert model_server.call_count == KNOWN_PHOTOS


async def test_instances_on_different_nodes_keep_a_budget(
    cluster: GaleraCluster, environment: dict[str, str], model_server: FakeModelServer, tmp_path: Path
) -> None:
    """No node sees what another one has locked: of two reservations at once, one is undone and made again."""
    model_server.delay_seconds = 0.2
    limited = {**environment, "DAILY_BUDGET": "0.1", "COST_PER_API_CALL": "0.01"}
    async with site_on(cluster, "two_payers", limited, tmp_path) as site:
        await asyncio.to_thread(lambda: site.start([node.port for node in cluster.nodes[:2]]))
        async with httpx2.AsyncClient(base_url=site.url, timeout=120) as client:
            answers = await asyncio.gather(
                *(client.post("/api/v1/classify", files={"image": jpeg_photo(32 + number, 32)}) for number in range(60))
            )
        codes = Counter("ok" if each.is_success else each.json()["error"]["code"] for each in answers)
        assert codes == {"ok": 10, "budget_exhausted": 50}
        assert model_server.call_count == 10


async def test_a_transaction_that_loses_to_another_node_is_undone_to_its_end(cluster: GaleraCluster) -> None:
    """Sent as one packet, what follows the moment of the defeat would be committed, and then again by the retry."""
    one, two, _ = cluster.nodes
    one.query("CREATE OR REPLACE TABLE image_classifier.sums (name VARCHAR(9) PRIMARY KEY, value INT)")
    one.query("INSERT INTO image_classifier.sums VALUES ('shared', 0), ('own', 0)")
    add = "UPDATE sums SET value = value + 1 WHERE name = %s"
    statements = [Statement(add, ("shared",)), Statement("DO SLEEP(1)"), Statement(add, ("own",))]
    engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": one.url})))
    try:
        ours = asyncio.create_task(run(engine, statements, writes=True))
        await asyncio.sleep(0.5)
        two.query("UPDATE image_classifier.sums SET value = value + 10 WHERE name = 'shared'")
        await ours
    finally:
        await engine.dispose()
    assert one.query("SELECT * FROM image_classifier.sums ORDER BY name") == [("own", 1), ("shared", 11)]


async def test_a_lease_has_one_owner_among_all_nodes(cluster: GaleraCluster) -> None:
    settings = [Settings(database=DatabaseSettings.model_validate({"url": n.url})) for n in cluster.nodes]
    engines = [create_engine(each) for each in settings]
    await migrate(engines[0], settings[0])
    try:
        async with AsyncExitStack() as stack:
            processes = [await stack.enter_async_context(process(engine)) for engine in engines]
            for number in range(40):
                claimed = await asyncio.gather(*(each.claim(f"{number:064x}") for each in processes))
                assert claimed.count(True) == 1
    finally:
        for engine in engines:
            await engine.dispose()
