"""The category list, so that a client need not carry the names itself."""

from fastapi import APIRouter

from app.api.errors import describe_errors
from app.schemas.categories import CATEGORY_NAMES, CategoriesResponse

router = APIRouter(tags=["classification"])


@router.get("/categories", responses=describe_errors())
async def get_categories() -> CategoriesResponse:
    """The eight categories with their Chinese and English names."""
    return CategoriesResponse(categoryNameMap=CATEGORY_NAMES)
