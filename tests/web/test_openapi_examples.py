"""What /docs fills in by itself is taken by the service: the first "Try it out" of a reader does not fail."""

from collections.abc import Iterator
from typing import Any

import httpx2

from tests.fakes.images import jpeg_photo

# Examples name what a new service does not have, and each of these needs a name.
NOT_THERE = {"/api/v1/requests/{request_id}": "request_not_found", "/api/v1/feedback": "request_not_found"}
METHODS = {"get", "post", "put", "delete", "patch"}
FORM = "multipart/form-data"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The path, method and description of each."""
    for path, methods in document["paths"].items():
        for method in METHODS & set(methods):
            yield path, method, methods[method]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema behind a reference."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def prefilled(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """What a form shows before a person has typed: an example, the default, the first choice, or nothing."""
    schema = resolved(document, schema)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "properties" in schema:
        required = schema.get("required", [])
        return {name: prefilled(document, schema["properties"][name]) for name in required}
    return schema.get("example", schema.get("default"))


def request_of(document: dict[str, Any], path: str, operation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The address and what is sent with it, for an operation as it is prefilled."""
    sent: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", []):
        value = prefilled(document, parameter["schema"])
        if value is not None and (parameter.get("required") or not resolved(document, parameter["schema"]).get("enum")):
            sent[parameter["in"]][parameter["name"]] = str(value).lower() if isinstance(value, bool) else value
    arguments: dict[str, Any] = {"params": sent["query"], "headers": sent["header"]}
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = resolved(document, content["schema"])
        if kind == FORM:
            values = {name: prefilled(document, field) for name, field in schema["properties"].items()}
            values |= content["example"]
            image = values.pop("image")
            assert image, path
            arguments["files"] = {"image": jpeg_photo(640, 480)}
            # Swagger UI leaves out what is empty.
            arguments["data"] = {name: value for name, value in values.items() if value}
        elif kind == "application/json":
            arguments["json"] = content.get("example") or prefilled(document, schema)
        else:
            arguments["data"] = prefilled(document, schema)
    return path.format(**sent["path"]), arguments


async def test_no_prefilled_example_is_refused(service: httpx2.AsyncClient) -> None:
    document = (await service.get("/openapi.json")).json()
    tried = set()
    for path, method, operation in operations(document):
        if {} not in operation.get("security", [{}]):
            continue
        address, arguments = request_of(document, path, operation)
        if None in (arguments.get("data") or {}).values():
            # A name and a password, which a person has to type.
            continue
        answer = await service.request(method, address, **arguments)
        tried.add(path)
        if path in NOT_THERE:
            assert answer.json()["error"]["code"] == NOT_THERE[path]
        else:
            assert answer.is_success, (method, address, arguments, answer.text)
    assert {"/api/v1/classify", "/api/v1/classify/check-cache", "/api/v1/stats/timeseries", "/users/"} <= tried


async def test_what_may_be_left_out_is_left_empty(service: httpx2.AsyncClient) -> None:
    # Such a value is sent with the reader's own photo, or a second time, and is wrong then.
    document = (await service.get("/openapi.json")).json()
    for path, _, operation in operations(document):
        parameters = operation.get("parameters", [])
        optional = {each["name"]: each["schema"] for each in parameters if not each.get("required")}
        content = operation.get("requestBody", {}).get("content", {}).get(FORM)
        if content is not None:
            schema = resolved(document, content["schema"])
            optional |= {name: field for name, field in schema["properties"].items() if name not in schema["required"]}
            assert not optional.keys() & content["example"].keys(), path
        for name, schema in optional.items():
            for each in (schema, *schema.get("anyOf", [])):
                assert not each.keys() & {"example", "examples"}, (path, name)
