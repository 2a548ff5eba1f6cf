"""Jobs: have a model look at an album of one's library, in parts, and see how far it is."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.api.dependencies import CurrentAccount, InferenceDep, JobsDep, LanguageDep, ModelsDep
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
    JobCancelled,
    JobNotFound,
    JobTooLarge,
    PayloadTooLarge,
    ServerBusy,
    TokenExpired,
    TooManyTasks,
    UnknownModel,
)
from app.schemas.inference import ID_MAX, InferenceResponse
from app.schemas.jobs import (
    EXAMPLE_JOB_ID,
    JobData,
    JobImage,
    JobImagesData,
    JobImagesRequest,
    JobImagesResponse,
    JobRequest,
    JobResponse,
)
from app.schemas.tasks import TaskError
from app.services.tasks.jobs import Job
from app.services.tasks.record import TaskStatus

MAX_PAGE = 100

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobIdPath = Annotated[str, Path(max_length=64, examples=[EXAMPLE_JOB_ID])]
_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired, DatabaseUnavailable, ServerBusy)
_ADDING = (ImageNotFound, PayloadTooLarge, TooManyTasks)


@router.post(
    "",
    status_code=202,
    response_model=JobResponse,
    responses={202: REPLAY_HEADERS, **describe_errors(UnknownModel, *_ADDING, *IDEMPOTENCY_ERRORS, *_ERRORS)},
)
async def create_job(
    request: Request,
    body: JobRequest,
    account: CurrentAccount,
    models: ModelsDep,
    jobs: JobsDep,
    key: IdempotencyKeyDep,
    language: LanguageDep,
) -> JobResponse | Response:
    """Have a model look at an album: up to 1000 pictures with this request, the others with further ones."""
    models.check(body.model_name)
    return await answer_once(
        request,
        key,
        owner_of_account(account),
        lambda keep: jobs.create(
            account.id, body.image_ids, body.model_name, body.priority, language=language, keep=keep
        ),
        _response,
        fingerprint=fingerprint_of(request, language, body.model_dump_json()),
        status=202,
    )


@router.post(
    "/{job_id}/images",
    status_code=202,
    responses=describe_errors(JobNotFound, JobCancelled, JobTooLarge, *_ADDING, *_ERRORS),
)
async def add_images(
    job_id: JobIdPath, body: JobImagesRequest, account: CurrentAccount, jobs: JobsDep, language: LanguageDep
) -> JobResponse:
    """Add pictures to a job, 10000 in all. One that it has already is not added again, so this may be repeated."""
    return _response(await jobs.add(account.id, job_id, body.image_ids, language=language))


@router.get("/{job_id}", responses=describe_errors(JobNotFound, *_ERRORS))
async def get_job(job_id: JobIdPath, account: CurrentAccount, jobs: JobsDep) -> JobResponse:
    """How far a job is."""
    return _response(await jobs.get(account.id, job_id))


@router.get("/{job_id}/images", responses=describe_errors(JobNotFound, *_ERRORS))
async def list_images(
    job_id: JobIdPath,
    account: CurrentAccount,
    jobs: JobsDep,
    inference: InferenceDep,
    skip: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    status: Annotated[TaskStatus | None, Query(description="Only those in this state.")] = None,
) -> JobImagesResponse:
    """The pictures of a job with what the model said of each, in the order of their ids."""
    page = await jobs.page(account.id, job_id, skip=skip, limit=limit, status=status)
    results = await inference.results.of_ids(account.id, [task.result_id for task in page.items if task.result_id])
    items = [
        JobImage(
            image_id=task.image_id,
            task_id=task.id,
            status=task.status,
            result=InferenceResponse.model_validate(results[task.result_id]) if task.result_id in results else None,
            error=TaskError(code=task.error_code, message=task.error_message or "") if task.error_code else None,
        )
        for task in page.items
    ]
    return JobImagesResponse(data=JobImagesData(items=items, total=page.total, skip=skip, limit=limit))


@router.delete("/{job_id}", responses=describe_errors(JobNotFound, *_ERRORS))
async def cancel_job(job_id: JobIdPath, account: CurrentAccount, jobs: JobsDep) -> JobResponse:
    """Cancel what has not begun of a job; results that are there stay. It may be repeated."""
    return _response(await jobs.cancel(account.id, job_id))


def _response(job: Job) -> JobResponse:
    return JobResponse(data=JobData.of(job))
