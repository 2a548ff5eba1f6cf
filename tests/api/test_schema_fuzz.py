"""Schemathesis plays with every documented operation: no answer is undocumented, malformed or an error of ours."""

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from tests.servers.processes import free_port
from tests.support.running import running

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def test_no_operation_surprises(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    load_all_checks()
    checks = CHECKS.get_by_names(list(CHECKED))
    with running("uvicorn", port, {**environment, "ADMIN_API_KEY": "an-admin-key-for-tests"}):
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        tried = 0
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()

            @settings(
                max_examples=15,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def play(case: Any) -> None:
                case.call_and_validate(checks=checks)

            play()
            tried += 1
    assert tried == 36
