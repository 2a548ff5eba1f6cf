"""Errors over HTTP: the one format, for exceptions, for elements of a batch, and in the OpenAPI document."""

import math
from collections import defaultdict
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.clients.errors import (
    ModelAuthenticationFailed,
    ModelBusy,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelWeightsMissing,
)
from app.clock import utc_now
from app.errors import (
    LIMIT_ERRORS,
    ApiKeyRequired,
    AppError,
    InsufficientScope,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    NetworkNotAllowed,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    ServerBusy,
    TooManyLogins,
    TooManySignUps,
    TooManyStreams,
    TooManyTasks,
    TooManyWrongKeys,
)
from app.language.accept import asked_language
from app.language.messages import message_of, problem_of
from app.observability import metrics
from app.schemas.common import EXAMPLE_REQUEST_ID, EXAMPLE_TIMESTAMP, ErrorBody, ErrorResponse
from app.services.request_log.error_counts import count_error

# Only the operator can change them.
NEEDS_OPERATOR = (ModelAuthenticationFailed, ModelNotFound, ModelQuotaExhausted, ModelWeightsMissing)
# Whom we refuse for want of room, or because they come too often.
REFUSALS: tuple[type[AppError], ...] = (
    ServerBusy,
    ModelBusy,
    *LIMIT_ERRORS,
    TooManyLogins,
    TooManySignUps,
    TooManyWrongKeys,
    RateLimited,
    TooManyTasks,
    TooManyStreams,
)
for refusal in REFUSALS:
    # Shown from the start: Prometheus takes a series that is born with its first event for one that has not grown.
    metrics.REFUSED_REQUESTS.labels(refusal.code)
# What a route that takes API keys may answer (app/api/access.py).
KEY_ERRORS = (ApiKeyRequired, InvalidApiKey, InsufficientScope, NetworkNotAllowed, TooManyWrongKeys, RateLimited)
# For a 503 whose cause does not say how long it will last.
DEFAULT_RETRY_AFTER_SECONDS = 5.0
# For an error that lasts until an operator changes a setting.
OPERATOR_RETRY_AFTER_SECONDS = 60.0


def error_body(error: AppError, scope: Scope, request_id: str) -> ErrorResponse:
    """The error in the one format, in the language that the request asks for; `request_id` may be that of a part."""
    return ErrorResponse(
        error=ErrorBody(
            code=error.code, message=message_of(error, asked_language(scope["headers"])), details=error.details
        ),
        request_id=request_id,
        timestamp=utc_now(),
    )


def error_response(
    error: AppError, scope: Scope, *, status: int | None = None, code: str | None = None, message: str | None = None
) -> Response:
    """The error as an HTTP answer to a request, in the language that it asks for.

    `status`, `code` and `message` replace the error's own (for the framework's errors).
    """
    body = error_body(error, scope, scope["state"]["request_id"])
    body.error.code = code or body.error.code
    body.error.message = message or body.error.message
    status = status or error.status
    # A cache may keep a 404 or 405 that does not say for how long (RFC 9110, 15.1).
    headers = {"Vary": "Accept-Language"}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = error.challenge
    if status == HTTPStatus.REQUEST_TIMEOUT:
        # https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9: the rest of the request may come yet.
        headers["Connection"] = "close"
    retry_after_seconds = error.retry_after_seconds
    if retry_after_seconds is None and status == HTTPStatus.SERVICE_UNAVAILABLE:
        needs_operator = isinstance(error, NEEDS_OPERATOR)
        retry_after_seconds = OPERATOR_RETRY_AFTER_SECONDS if needs_operator else DEFAULT_RETRY_AFTER_SECONDS
    if retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_seconds)))
    return Response(body.model_dump_json(), status_code=status, headers=headers, media_type="application/json")


def log_error(error: AppError) -> None:
    """Log and count what is not the caller's fault, and count whom we refuse for want of room."""
    if isinstance(error, REFUSALS):
        metrics.count(metrics.REFUSED_REQUESTS.labels(error.code))
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        count_error(error.code)
        logger.warning("{}: {}", error.code, type(error.__cause__).__name__ if error.__cause__ else error.text)


def describe_errors(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors, with an example for each code.

    "4XX" stands for what every route may answer, and keeps FastAPI from announcing a 422 that we never send.
    """
    by_status: dict[int, list[type[AppError]]] = defaultdict(list)
    declared: list[type[AppError]] = [AppError, InvalidRequest, *errors]
    for error in declared:
        by_status[error.status].append(error)
    responses: dict[int | str, dict[str, Any]] = {
        status: {
            "description": ", ".join(f"`{error.code}`" for error in group),
            "content": {
                "application/json": {
                    # Not `model`: FastAPI would build the same validator for each status of each route, at each start.
                    "schema": {"$ref": f"#/components/schemas/{ErrorResponse.__name__}"},
                    "examples": {error.code: {"value": _example(error)} for error in group},
                }
            },
        }
        for status, group in sorted(by_status.items())
    }
    responses["4XX"] = {
        # This one brings the schema into the document.
        "model": ErrorResponse,
        "description": "Any other error of the caller, in the same format",
        "content": {
            "application/json": {"examples": {e.code: {"value": _example(e)} for e in (NotFound, MethodNotAllowed)}}
        },
    }
    return responses


def add_error_handlers(app: FastAPI) -> None:
    """Make the application answer every exception in the one format."""
    app.add_exception_handler(AppError, _handle_app_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)


async def _handle_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)  # noqa: S101 - registered for this class only
    log_error(error)
    return error_response(error, request.scope)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    # Only place and reason: what was sent is not repeated.
    details = [{"field": _field(problem), "message": problem["msg"]} for problem in error.errors()]
    language = asked_language(request.scope["headers"])
    message = next((f"{_field(problem)}: {problem_of(problem, language)}" for problem in error.errors()), None)
    return error_response(InvalidRequest(details=details), request.scope, message=message)


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    scope = request.scope
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return error_response(NotFound(), scope)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return error_response(PayloadTooLarge(), scope)
        case HTTPStatus.BAD_REQUEST:
            return error_response(InvalidRequest(str(error.detail)), scope)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            response = error_response(MethodNotAllowed(), scope)
        case _:
            phrase = HTTPStatus(error.status_code).phrase
            code = phrase.lower().replace(" ", "_")
            response = error_response(AppError(), scope, status=error.status_code, code=code, message=f"{phrase}.")
    response.headers.update(error.headers or {})
    return response


def _field(problem: dict[str, Any]) -> str:
    # For broken JSON the place is an offset, which is no field.
    place = problem["loc"][:1] if problem["type"] == "json_invalid" else problem["loc"]
    return ".".join(str(part) for part in place)


def _example(error: type[AppError]) -> dict[str, Any]:
    return {
        "success": False,
        "error": {"code": error.code, "message": error.message, "details": None},
        "request_id": EXAMPLE_REQUEST_ID,
        "timestamp": EXAMPLE_TIMESTAMP,
    }
