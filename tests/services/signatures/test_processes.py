"""Two real processes on one database: a copy of a request that one has answered is refused by the other."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.servers.processes import free_port
from tests.support.running import running
from tests.support.signing import sign, stored_key, wait_until_known


def test_of_copies_on_two_processes_one_is_answered(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            stack.enter_context(running("uvicorn", port, environment))
        key = wait_until_known(stored_key(tmp_path / "data" / "image-classifier.db"), *ports)
        api = stack.enter_context(httpx2.Client(timeout=120))
        threads = stack.enter_context(ThreadPoolExecutor(12))
        path = "/api/v1/classify/check-cache"
        for _ in range(5):
            # Both are behind one name.
            signed = sign(httpx2.Request("POST", f"http://photos.example{path}", json={"image_hash": "0" * 64}), key)
            copies = [
                httpx2.Request("POST", f"http://127.0.0.1:{port}{path}", headers=signed.headers, content=signed.read())
                for port in ports * 6
            ]
            statuses = sorted(answer.status_code for answer in threads.map(api.send, copies))
            assert statuses == [200] + [401] * 11
