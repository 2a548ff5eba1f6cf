"""Inference on pictures of one's library, and the models to choose from, over the wire."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.categories import Category
from app.language.accept import Language
from app.language.descriptions import guessed_language
from app.schemas.categories import CATEGORY_NAMES, CategoryNames
from app.schemas.common import EXAMPLE_REQUEST_ID, EXAMPLE_TIMESTAMP, RequestId, Timestamp
from app.services.tasks.record import Priority

# Ids are unsigned in MySQL; SQLite's end here.
ID_MAX = 2**63 - 1
MODEL_NAME_MAX_LENGTH = 100
DEFAULT_MODEL_NAME = "dummy"

Id = Annotated[int, Field(ge=1, le=ID_MAX)]

_RESULT_EXAMPLE: dict[str, Any] = {
    "id": 2,
    "result_id": 2,
    "image_id": 1,
    "task_id": None,
    "model_name": "dummy",
    "model": "local/efficientnet-lite2/efda6a2d",
    "category": "pets",
    "category_name": {"chinese": "宠物萌照", "english": "Pet Photos"},
    "confidence": 0.97,
    "description": "本地模型认为这张图片属于“宠物萌照”，很可能是猫。",
    "description_language": "zh",
    "from_cache": False,
    "processing_time_ms": 112,
    "request_id": EXAMPLE_REQUEST_ID,
    "created_at": EXAMPLE_TIMESTAMP,
}


class InferenceRequest(BaseModel):
    """Which picture, and which model."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image_id": 1, "model_name": "dummy"}]})

    image_id: Annotated[int, Field(ge=1, le=ID_MAX, description="A picture of your library.")]
    model_name: Annotated[
        str, Field(min_length=1, max_length=MODEL_NAME_MAX_LENGTH, description="A name of `GET /models`.")
    ] = DEFAULT_MODEL_NAME


class AsyncInferenceRequest(InferenceRequest):
    """The same, for later."""

    priority: Annotated[
        Priority, Field(description="`low`: it can wait up to a day, and costs half where the model has batches.")
    ] = Priority.NORMAL


class InferenceResponse(BaseModel):
    """What a model said of a picture."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_RESULT_EXAMPLE]})

    id: Annotated[int, Field(description="The result's id; `result_id` is the same.")]
    image_id: int
    task_id: Annotated[str | None, Field(description="The asynchronous task that has asked, or null.")]
    model_name: Annotated[str, Field(description="What was asked for.")]
    model: Annotated[str, Field(description="What has answered.")]
    category: Category
    confidence: Annotated[float, Field(ge=0, le=1, description="0..1")]
    description: Annotated[str | None, Field(description="One sentence, or null.")]
    from_cache: Annotated[bool, Field(description="The answer was known already; no model was asked.")]
    processing_time_ms: Annotated[int, Field(ge=0)]
    request_id: RequestId
    created_at: Timestamp

    @computed_field  # type: ignore[prop-decorator]  # https://github.com/python/mypy/issues/1362
    @property
    def result_id(self) -> int:
        """The result's id."""
        return self.id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def description_language(self) -> Language | None:
        """Language of the description, as its characters tell; null without one."""
        return None if self.description is None else guessed_language(self.description)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def category_name(self) -> CategoryNames:
        """The category's names."""
        return CATEGORY_NAMES[self.category]


class InferenceList(BaseModel):
    """Results, newest first; `total` counts all that match."""

    items: list[InferenceResponse]
    total: Annotated[int, Field(ge=0, examples=[1])]
    skip: Annotated[int, Field(examples=[0])]
    limit: Annotated[int, Field(examples=[20])]


class ModelItem(BaseModel):
    """A name that `model_name` may have."""

    model_config = ConfigDict(from_attributes=True)

    name: Annotated[str, Field(examples=["dummy"])]
    provider: Annotated[str, Field(examples=["local"])]
    model: Annotated[
        str | None,
        Field(
            description="What will answer; null until it is first used.", examples=["local/efficientnet-lite2/efda6a2d"]
        ),
    ]
    is_default: Annotated[bool, Field(description="Used where no name is given.")]
    alias_of: Annotated[str | None, Field(description="The name that this one stands for.", examples=["local"])]
    description: Annotated[str, Field(examples=["The small model that ships with the service."])]


class ModelList(BaseModel):
    """All models that can be chosen."""

    items: list[ModelItem]
