"""Body of the category list, as in the specification's appendix B."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.categories import CATEGORY_TEXTS, Category


class CategoryNames(BaseModel):
    """Both names of a category."""

    chinese: str
    english: str


CATEGORY_NAMES = {
    key: CategoryNames(chinese=text.chinese, english=text.english) for key, text in CATEGORY_TEXTS.items()
}


class CategoriesResponse(BaseModel):
    """The eight categories with their names, by key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "categoryNameMap": {key.value: names.model_dump() for key, names in CATEGORY_NAMES.items()},
                }
            ]
        }
    )

    success: Literal[True] = True
    categoryNameMap: dict[Category, CategoryNames]  # noqa: N815 - the specification's name
