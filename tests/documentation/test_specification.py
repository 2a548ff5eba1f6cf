"""The shell examples of the specification of accounts and library, run as they stand there, against a real service.

They speak to localhost:8000. A `.curlrc` sends curl to the port of the test's own service instead, so that not a
character of them has to be changed.
"""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from app.config.settings import Settings
from app.main import create_app
from tests.support.documents import DOCS
from tests.support.serving import serving

# The commands of chapter 8, in their order.
EXAMPLES = r"""
curl -X POST "http://localhost:8000/users/" \
     -H "Content-Type: application/json" \
     -d '{
           "username": "testuser",
           "email": "test@example.com",
           "password": "testpassword123"
         }'

TOKEN=$(curl -X POST "http://localhost:8000/users/token" \
             -H "Content-Type: application/x-www-form-urlencoded" \
             -d "username=testuser&password=testpassword123" | jq -r .access_token)

echo "Access Token: $TOKEN"

curl -X POST "http://localhost:8000/images/upload" \
     -H "Authorization: Bearer $TOKEN" \
     -F "file=@image.jpg"

IMAGE_ID=1
curl -X POST "http://localhost:8000/images/inference" \
     -H "Authorization: Bearer $TOKEN" \
     -H "Content-Type: application/json" \
     -d '{"image_id": '$IMAGE_ID', "model_name": "dummy"}'

TASK_INFO=$(curl -X POST "http://localhost:8000/images/inference/async" \
                 -H "Authorization: Bearer $TOKEN" \
                 -H "Content-Type: application/json" \
                 -d '{"image_id": '$IMAGE_ID', "model_name": "dummy"}')

TASK_ID=$(echo $TASK_INFO | jq -r .task_id)
TASK_URL="http://localhost:8000$(echo $TASK_INFO | jq -r .result_url)"

echo "Task ID: $TASK_ID"
echo "Task Status URL: $TASK_URL"

sleep 5
curl -H "Authorization: Bearer $TOKEN" $TASK_URL

RESULT_URL="http://localhost:8000/images/inference/2"
curl -H "Authorization: Bearer $TOKEN" $RESULT_URL
"""


async def listen(token: str, port: int, heard: list[dict[str, Any]]) -> None:
    """Do what `websocat "ws://localhost:8000/ws/inference?token=$TOKEN"` does."""
    uri = f"ws://localhost:8000/ws/inference?token={token}"
    async with connect(uri, host="127.0.0.1", port=port) as socket:
        while True:
            heard.append(json.loads(await socket.recv()))


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not installed")
async def test_the_examples_of_the_specification(empty_database: Settings, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes((DOCS / "samples/coffee.jpg").read_bytes())
    heard: list[dict[str, Any]] = []
    output = ""
    async with serving(create_app(empty_database)) as url, asyncio.TaskGroup() as tasks:
        port = int(url.rpartition(":")[2])
        (tmp_path / ".curlrc").write_text(
            f'connect-to = "localhost:8000:127.0.0.1:{port}"\nsilent\nshow-error\nwrite-out = "\\n"\n'
        )
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", EXAMPLES),
            cwd=tmp_path,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert shell.stdout is not None
        listener: asyncio.Task[None] | None = None
        async for line in shell.stdout:
            output += line.decode()
            if token := re.match(r"Access Token: (\S+)", line.decode()):
                listener = tasks.create_task(listen(token[1], port, heard))
        assert await shell.wait() == 0, output
        assert listener is not None
        listener.cancel()

    answers = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    user, image, result, task, later = answers
    assert user["username"] == "testuser"
    assert image["image_id"] == 1
    assert (result["image_id"], result["category"]) == (1, "foods")
    assert (task["status"], task["result_url"]) == ("completed", "/images/inference/2")
    assert (later["id"], later["category"], later["task_id"]) == (2, "foods", task["task_id"])
    changes = [event["status"] for event in heard if event.get("task_id") == task["task_id"]]
    assert changes[-1] == "completed"
