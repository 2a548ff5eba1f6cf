"""What `/metrics` has counted since a moment."""

import asyncio

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from app.observability import metrics

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def figures(service: httpx2.AsyncClient) -> Figures:
    response = await service.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


class Growth:
    """What has been counted since `begin`; tests share the process' counters."""

    def __init__(self, service: httpx2.AsyncClient, before: Figures) -> None:
        self._service = service
        self._before = before

    @classmethod
    async def begin(cls, service: httpx2.AsyncClient) -> "Growth":
        return cls(service, await figures(service))

    async def of(self, name: str, **labels: str) -> float:
        key = f"{metrics.PREFIX}_{name}", frozenset(labels.items())
        return (await figures(self._service)).get(key, 0) - self._before.get(key, 0)

    async def reaches(self, value: float, name: str, **labels: str) -> bool:
        """Whether a figure becomes `value` in ten seconds: what is counted may be told to others a moment before."""
        for _ in range(1000):
            if await self.of(name, **labels) == value:
                return True
            await asyncio.sleep(0.01)
        return False
