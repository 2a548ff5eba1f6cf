"""The eight categories, agreed with every client and fixed: models answer and the cache holds nothing else."""

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """Key of a category, as it stands in the API, in the database and in a model's answer."""

    SOCIAL_ACTIVITIES = "social_activities"
    PETS = "pets"
    SINGLE_PERSON = "single_person"
    FOODS = "foods"
    TRAVEL_SCENERY = "travel_scenery"
    SCREENSHOT = "screenshot"
    IDCARD = "idcard"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class CategoryText:
    """How a category is shown to people (both names) and explained to a model (`meaning`)."""

    chinese: str
    english: str
    meaning: str


CATEGORY_TEXTS: dict[Category, CategoryText] = {
    Category.SOCIAL_ACTIVITIES: CategoryText(
        "社交活动", "Social Activities", "parties, group photos, several people together"
    ),
    Category.PETS: CategoryText("宠物萌照", "Pet Photos", "cats, dogs and other pets"),
    Category.SINGLE_PERSON: CategoryText(
        "单人照片", "Single Person Photos", "one person: selfies, portraits, one person alone in the picture"
    ),
    Category.FOODS: CategoryText("美食记录", "Food Records", "dishes, drinks, cooking, a table in a restaurant"),
    Category.TRAVEL_SCENERY: CategoryText(
        "旅行风景", "Travel Scenery", "sights, landscapes and cityscapes, as one photographs them on a journey"
    ),
    Category.SCREENSHOT: CategoryText(
        "手机截图", "Mobile Screenshots", "what a phone or computer screen shows: an app, a chat, a web page"
    ),
    Category.IDCARD: CategoryText(
        "证件照", "ID Card", "identity cards, passports, driving licences and other official documents of a person"
    ),
    Category.OTHER: CategoryText("其它", "Other Images", "anything that is none of the above"),
}
