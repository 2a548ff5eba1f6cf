"""Bodies of the health endpoints."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.clients.breaker import BreakerState
from app.schemas.common import EXAMPLE_TIMESTAMP, Timestamp
from app.services.health import DatabaseState


class ModelStatus(BaseModel):
    """How a model is; `last_*` are what the worker that answers has seen."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    provider: str
    model: str
    breaker: Annotated[
        BreakerState,
        Field(description="open: the model failed too often and is left alone. The worst of all workers' breakers."),
    ]
    open_breakers: Annotated[int, Field(description="In how many workers of this instance it is not closed.")]
    last_success_at: datetime | None
    last_error_code: Annotated[str | None, Field(description="One of the model_* error codes.")]
    last_error_at: datetime | None


_HEALTHY_EXAMPLE: dict[str, Any] = {
    "success": True,
    "status": "healthy",
    "timestamp": EXAMPLE_TIMESTAMP,
    "database": "connected",
    "read_replica": None,
    "model_api": "available",
    "model": {
        "provider": "openai",
        "model": "gpt-6-luna",
        "breaker": "closed",
        "open_breakers": 0,
        "last_success_at": "2025-10-10T11:59:58Z",
        "last_error_code": "model_rate_limited",
        "last_error_at": "2025-10-10T09:13:20Z",
    },
    "fallback": None,
}
UNHEALTHY_EXAMPLE = {**_HEALTHY_EXAMPLE, "success": False, "status": "unhealthy", "database": "disconnected"}


class HealthResponse(BaseModel):
    """healthy; degraded: the model is out of reach, hits are answered; unhealthy: no database that takes rows."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [_HEALTHY_EXAMPLE]})

    success: bool
    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: Timestamp
    database: Annotated[DatabaseState, Field(description="read_only: it answers, but takes nothing.")]
    read_replica: Annotated[
        Literal["connected", "disconnected"] | None,
        Field(description="disconnected: statistics come from the main server; null: MYSQL_READ_HOST is not set."),
    ]
    model_api: Literal["available", "unavailable"]
    model: ModelStatus
    fallback: Annotated[
        ModelStatus | None,
        Field(description="The model of FALLBACK_MODELS that answers new photos while `model` cannot be used."),
    ]


class LivenessResponse(BaseModel):
    """The process answers; nothing else is asked."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "status": "alive", "timestamp": EXAMPLE_TIMESTAMP}]}
    )

    success: Literal[True] = True
    status: Literal["alive"] = "alive"
    timestamp: Timestamp
