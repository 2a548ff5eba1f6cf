"""The setting MODELS: names that people may ask for, and the classes behind them."""

import re

_NAMED_CLASS = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})=(?P<target>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)")


def named_classes(text: str) -> dict[str, str]:
    """Return name -> package.module:Class of a comma-separated list of name=package.module:Class.

    Raises:
        ValueError: it is no such list, or a name stands in it twice.
    """
    classes: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        found = _NAMED_CLASS.fullmatch(item)
        if found is None:
            raise ValueError("not a comma-separated list of name=package.module:Class")
        if found["name"] in classes:
            raise ValueError(f"{found['name']} stands there twice")
        classes[found["name"]] = found["target"]
    return classes
