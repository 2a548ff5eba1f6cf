"""A model as people add it, which counts what it is asked and can be told to wait or to fail."""

import threading
from typing import Any, ClassVar

from PIL import Image


class CountedModel:
    """Says "pets"; its state belongs to the class, because the service makes the object."""

    CATEGORIES: ClassVar[dict[str, str]] = {"cat": "pets"}
    MODEL: ClassVar[str] = "counted/1"
    loads: ClassVar[int] = 0
    calls: ClassVar[int] = 0
    fails: ClassVar[bool] = False
    may_answer: ClassVar[threading.Event] = threading.Event()

    @classmethod
    def reset(cls) -> None:
        """Forget what has been, and answer at once."""
        cls.loads = cls.calls = 0
        cls.fails = False
        cls.may_answer.set()

    def load_model(self) -> None:
        type(self).loads += 1

    def preprocess(self, image: Image.Image) -> Any:
        return image.size

    def predict(self, data: Any) -> Any:
        type(self).calls += 1
        self.may_answer.wait(120)
        if self.fails:
            raise RuntimeError("told to")
        return data

    def postprocess(self, prediction: Any) -> dict[str, Any]:
        return {"label": "cat", "confidence": 0.875, "description": f"{prediction[0]} pixels wide"}


class BrokenModel(CountedModel):
    """Cannot be loaded."""

    def load_model(self) -> None:
        raise FileNotFoundError("/secret/path")
