"""The models that inference may be asked for."""

from fastapi import APIRouter

from app.api.dependencies import ModelsDep
from app.api.errors import describe_errors
from app.schemas.inference import ModelItem, ModelList

router = APIRouter(prefix="/models", tags=["inference"])


@router.get("", responses=describe_errors())
async def list_models(models: ModelsDep) -> ModelList:
    """The names that `model_name` may have, and what answers to each."""
    return ModelList(items=[ModelItem.model_validate(choice) for choice in models.choices()])
