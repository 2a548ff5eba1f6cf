"""The access log: one line per request, many of them written at a time, since each by itself would cost as much as a
cached answer. A line holds its own time, and is written at the latest `ACCESS_LOG_PAUSE_SECONDS` after it.
"""

import asyncio
import json
import time

from loguru import logger

from app.config.logs import LogFormat

ACCESS_LOG_PAUSE_SECONDS = 0.1
# What a line says of the cache, by the request's outcome.
_CACHED = {"hit": "true", "miss": "false"}


class AccessLog:
    """Writes lines in `line_format`, in the event loop that the first one comes from."""

    def __init__(self, line_format: LogFormat) -> None:
        self._is_json = line_format is LogFormat.JSON
        self._lines: list[str] = []
        self._second = 0
        self._second_text = ""

    def write(
        self,
        request_id: str,
        *,
        method: str,
        path: str,
        status: int,
        outcome: str,
        seconds: float,
        client: str | None,
        user: str | None,
    ) -> None:
        """Note a line.

        Args:
            request_id: of the request.
            method: of HTTP, a token of RFC 9110, which has no quotes.
            path: percent-encoded and without the query.
            status: of the answer.
            outcome: hit, miss, ok, client_error, server_error or gone.
            seconds: from its arrival.
            client: its IP address, if known.
            user: who asked, as in the request log; printable, and anything beyond that.
        """
        if not self._lines:
            asyncio.get_running_loop().call_later(ACCESS_LOG_PAUSE_SECONDS, self.flush)
        moment = time.time()
        second = int(moment)
        if second != self._second:
            self._second = second
            time_form = "%Y-%m-%dT%H:%M:%S" if self._is_json else "%Y-%m-%d %H:%M:%S"
            self._second_text = time.strftime(time_form, time.gmtime(second))
        moment_text = f"{self._second_text}.{int((moment - second) * 1000):03d}Z"
        milliseconds = f"{seconds * 1000:.1f}"
        if self._is_json:
            client_text = "null" if client is None else f'"{client}"'
            user_text = "null" if user is None else json.dumps(user, ensure_ascii=False)
            line = (
                f'{{"time": "{moment_text}", "level": "INFO", "request_id": "{request_id}", "name": "access",'
                f' "message": "{method} {path} {status}", "method": "{method}", "path": "{path}", "status": {status},'
                f' "outcome": "{outcome}", "cached": {_CACHED.get(outcome, "null")}, "milliseconds": {milliseconds},'
                f' "client": {client_text}, "user": {user_text}}}\n'
            )
        else:
            # The user comes last: there may be spaces in it, and nothing behind it can be forged.
            line = (
                f"{moment_text} INFO    {request_id} access {method} {path} {status} {outcome} {milliseconds} ms"
                f" client={client or '-'} user={user or '-'}\n"
            )
        self._lines.append(line)

    def flush(self) -> None:
        """Write what is noted; for the end of the service."""
        lines, self._lines = self._lines, []
        if lines:
            # Complete lines already.
            logger.opt(raw=True).info("".join(lines))
