"""`/metrics`: what `app/observability/metrics.py` has counted, of all workers, in Prometheus' text format.

A client that can reach it sees how much the service is used and what it costs; the proxy keeps it for the monitoring.
"""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.api.dependencies import TasksDep
from app.observability import metrics
from app.observability.metrics_multiprocess import locked_folder, shared_folder

METRICS_PATH = "/metrics"

router = APIRouter()


@router.get(METRICS_PATH, include_in_schema=False)
async def show_metrics(request: Request, tasks: TasksDep) -> Response:
    """Return the figures; this request is not among them."""
    await tasks.show_unfinished()
    # What this process has just answered is among them; the other ones are a tenth of a second late.
    metrics.flush()
    # Reading the files of many workers takes some milliseconds.
    body, content_type = await asyncio.to_thread(_exposition, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _exposition(accept: str) -> tuple[bytes, str]:
    encode, content_type = choose_encoder(accept)
    folder = shared_folder()
    if folder is None:
        return encode(metrics.REGISTRY), content_type
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    with locked_folder(str(folder)):
        return encode(registry), content_type
