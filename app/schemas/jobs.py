"""Jobs over the wire: an album of pictures that a model looks at."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.common import EXAMPLE_TIMESTAMP, DataResponse, Timestamp
from app.schemas.inference import DEFAULT_MODEL_NAME, MODEL_NAME_MAX_LENGTH, Id, InferenceResponse
from app.schemas.tasks import EXAMPLE_TASK_ID, PriorityField, StatusField, TaskError, TaskId
from app.services.tasks.jobs import Job, JobStatus
from app.services.tasks.record import Priority

# Of one request; an album is sent in parts.
IDS_MAX = 1000
EXAMPLE_JOB_ID = "0c4f8e2b7d1a49c6b3e5f7a9d8c01e24"

ImageIds = Annotated[list[Id], Field(max_length=IDS_MAX, description="Pictures of your library.", examples=[[1, 2, 3]])]


class JobRequest(BaseModel):
    """A new job; more pictures may follow."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image_ids": [1, 2, 3], "priority": "low"}]})

    image_ids: ImageIds = []
    model_name: Annotated[
        str, Field(min_length=1, max_length=MODEL_NAME_MAX_LENGTH, description="A name of `GET /models`.")
    ] = DEFAULT_MODEL_NAME
    priority: Annotated[
        Priority, Field(description="`low`: it can wait up to a day, and costs half where the model has batches.")
    ] = Priority.NORMAL


class JobImagesRequest(BaseModel):
    """More pictures for a job."""

    image_ids: Annotated[ImageIds, Field(min_length=1)]


class JobCounts(BaseModel):
    """How many of its pictures are in which state."""

    pending: Annotated[int, Field(ge=0)] = 0
    processing: Annotated[int, Field(ge=0)] = 0
    completed: Annotated[int, Field(ge=0)] = 0
    failed: Annotated[int, Field(ge=0)] = 0
    cancelled: Annotated[int, Field(ge=0)] = 0


class JobData(BaseModel):
    """A job."""

    job_id: Annotated[str, Field(description="32 hex digits.", examples=[EXAMPLE_JOB_ID])]
    status: Annotated[JobStatus, Field(description="`finished`: no picture waits or is looked at; more may be added.")]
    model_name: str
    priority: PriorityField
    photos: Annotated[int, Field(ge=0, examples=[3])]
    counts: JobCounts
    progress: Annotated[float, Field(ge=0, le=1, description="The share of its pictures that are done with, 0..1.")]
    images_url: Annotated[str, Field(examples=[f"/api/v1/jobs/{EXAMPLE_JOB_ID}/images"])]
    created_at: Timestamp

    @classmethod
    def of(cls, job: Job) -> "JobData":
        """A job as its owner sees it."""
        return cls(
            job_id=job.id,
            status=job.status,
            model_name=job.model_name,
            priority=job.priority,
            photos=job.photos,
            counts=JobCounts(**{status.value: number for status, number in job.counts.items()}),
            progress=round(job.progress, 4),
            images_url=f"/api/v1/jobs/{job.id}/images",
            created_at=job.created_at,
        )


class JobResponse(DataResponse[JobData]):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "data": {
                        "job_id": EXAMPLE_JOB_ID,
                        "status": "running",
                        "model_name": "default",
                        "priority": "low",
                        "photos": 3,
                        "counts": {"pending": 2, "processing": 0, "completed": 1, "failed": 0, "cancelled": 0},
                        "progress": 0.3333,
                        "images_url": f"/api/v1/jobs/{EXAMPLE_JOB_ID}/images",
                        "created_at": EXAMPLE_TIMESTAMP,
                    },
                }
            ]
        }
    )


class JobImage(BaseModel):
    """One picture of a job: its task, and what the model said or why it said nothing."""

    image_id: Annotated[int, Field(examples=[7])]
    task_id: Annotated[TaskId, Field(examples=[EXAMPLE_TASK_ID])]
    status: StatusField
    result: Annotated[InferenceResponse | None, Field(description="Once it is completed.")]
    error: Annotated[TaskError | None, Field(description="Why it has failed; else null.")]


class JobImagesData(BaseModel):
    """Some pictures of a job, in the order of their ids; `total` counts all that match."""

    items: list[JobImage]
    total: Annotated[int, Field(ge=0, examples=[1])]
    skip: Annotated[int, Field(examples=[0])]
    limit: Annotated[int, Field(examples=[20])]


class JobImagesResponse(DataResponse[JobImagesData]):
    """Pictures of a job."""
