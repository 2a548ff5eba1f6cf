"""Health for load balancers and people, liveness for the supervisor that restarts a process."""

from typing import Literal

from fastapi import APIRouter, Response

from app.api.dependencies import HealthDep
from app.api.errors import describe_errors
from app.clock import utc_now
from app.schemas.health import UNHEALTHY_EXAMPLE, HealthResponse, LivenessResponse, ModelStatus
from app.services.health import DatabaseState

_REPLICA: dict[bool | None, Literal["connected", "disconnected"] | None] = {
    True: "connected",
    False: "disconnected",
    None: None,
}

router = APIRouter(prefix="/health", tags=["health"])


@router.head("", include_in_schema=False)
@router.get(
    "",
    responses={
        **describe_errors(),
        503: {
            "model": HealthResponse,
            "description": "The database is out of reach, or takes nothing (`unhealthy`)",
            "content": {"application/json": {"example": UNHEALTHY_EXAMPLE}},
        },
    },
)
async def health(service: HealthDep, response: Response) -> HealthResponse:
    """Can the service answer? The database is written to, and the model asked, without a paid call."""
    state = await service.check()
    is_usable = state.database is DatabaseState.CONNECTED
    if not is_usable:
        response.status_code = 503
    return HealthResponse(
        success=is_usable,
        status="unhealthy" if not is_usable else "healthy" if state.model.available else "degraded",
        timestamp=utc_now(),
        database=state.database,
        read_replica=_REPLICA[state.replica_connected],
        model_api="available" if state.model.available else "unavailable",
        model=ModelStatus.model_validate(state.model),
        fallback=None if state.fallback is None else ModelStatus.model_validate(state.fallback),
    )


@router.head("/live", include_in_schema=False)
@router.get("/live", responses=describe_errors())
async def live() -> LivenessResponse:
    """Does the process answer? Nothing else is asked, so a database outage restarts no process."""
    return LivenessResponse(timestamp=utc_now())
