"""Asynchronous inference: ask for it, look how far it is, cancel it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.api.dependencies import CurrentAccount, LanguageDep, ModelsDep, TasksDep
from app.api.errors import describe_errors
from app.api.idempotency import (
    IDEMPOTENCY_ERRORS,
    REPLAY_HEADERS,
    IdempotencyKeyDep,
    answer_once,
    fingerprint_of,
    owner_of_account,
)
from app.errors import (
    AuthenticationRequired,
    DatabaseUnavailable,
    ImageNotFound,
    InvalidToken,
    PayloadTooLarge,
    ServerBusy,
    TaskNotFound,
    TaskNotPending,
    TokenExpired,
    TooManyTasks,
    UnknownModel,
)
from app.schemas.inference import ID_MAX, AsyncInferenceRequest
from app.schemas.tasks import EXAMPLE_TASK_ID, TaskAccepted, TaskAnswer, TaskList
from app.services.tasks.record import Task, TaskStatus

MAX_PAGE = 100

router = APIRouter(prefix="/images/inference", tags=["tasks"])

TaskIdPath = Annotated[str, Path(max_length=64, examples=[EXAMPLE_TASK_ID])]
_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired, DatabaseUnavailable, ServerBusy)


@router.post(
    "/async",
    status_code=202,
    response_model=TaskAccepted,
    responses={
        202: REPLAY_HEADERS,
        **describe_errors(UnknownModel, ImageNotFound, PayloadTooLarge, TooManyTasks, *IDEMPOTENCY_ERRORS, *_ERRORS),
    },
)
async def submit(
    request: Request,
    body: AsyncInferenceRequest,
    account: CurrentAccount,
    models: ModelsDep,
    tasks: TasksDep,
    key: IdempotencyKeyDep,
    language: LanguageDep,
) -> TaskAccepted | Response:
    """Have a model look at one of your pictures later. Ask `status_url` how far it is, or listen for it."""
    models.check(body.model_name)
    return await answer_once(
        request,
        key,
        owner_of_account(account),
        lambda keep: tasks.submit(
            account.id, body.image_id, body.model_name, priority=body.priority, language=language, keep=keep
        ),
        _accepted,
        fingerprint=fingerprint_of(request, language, body.model_dump_json()),
        image_id_of=lambda task: task.image_id,
        status=202,
    )


def _accepted(task: Task) -> TaskAccepted:
    return TaskAccepted(
        task_id=task.id,
        status=task.status,
        status_url=task.url,
        result_url=task.url,
        image_id=task.image_id,
        model_name=task.model_name,
        priority=task.priority.priority,
        created_at=task.created_at,
    )


@router.get("/tasks", responses=describe_errors(*_ERRORS))
async def list_tasks(
    account: CurrentAccount,
    tasks: TasksDep,
    skip: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    status: Annotated[TaskStatus | None, Query(description="Only those in this state.")] = None,
) -> TaskList:
    """Your tasks, newest first."""
    page = await tasks.page(account.id, skip=skip, limit=limit, status=status)
    items = [TaskAnswer.model_validate(task.body()) for task in page.items]
    return TaskList(items=items, total=page.total, skip=skip, limit=limit)


@router.get("/tasks/{task_id}", responses=describe_errors(TaskNotFound, *_ERRORS))
async def get_task(task_id: TaskIdPath, account: CurrentAccount, tasks: TasksDep) -> TaskAnswer:
    """How far a task is, and where its result is."""
    return TaskAnswer.model_validate((await tasks.get(account.id, task_id)).body())


@router.delete("/tasks/{task_id}", responses=describe_errors(TaskNotFound, TaskNotPending, *_ERRORS))
async def cancel_task(task_id: TaskIdPath, account: CurrentAccount, tasks: TasksDep) -> TaskAnswer:
    """Cancel a task that has not begun."""
    return TaskAnswer.model_validate((await tasks.cancel(account.id, task_id)).body())
