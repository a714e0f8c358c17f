"""The HTTP client of a model's server: requests, streams, retries and errors.

provider = Provider("http://localhost:11434/v1", key=None)
async with provider.open():
    completion = await provider.answer({"model": "qwen3", "messages": [...]}, forward)
"""

import errno
import os
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2
import orjson
import structlog
import trio

from netra_trio.models.completion import ANSWER_BYTES, UNFINISHED, Completion, Delta
from netra_trio.models.errors import ModelError
from netra_trio.models.key import KEY, KEY_FILE, Key
from netra_trio.models.sse import EventParser, MessageTooLong
from netra_trio.protocol.fields import JsonObject

ATTEMPTS = 3  # of one request
BACK_OFF = 0.5  # seconds, the maximum pause before the second attempt; doubles
RETRY_AFTER_MAX = 30.0  # seconds that a server may ask for; if it asks for more the run fails
CONNECT_SECONDS = 10.0  # to connect, and to send a request
CHECK_SECONDS = 15.0  # for the check at the start; a server that takes longer passes
IDLE_SECONDS = 120.0  # without a byte: a local model may load for a minute before it answers
CONNECTIONS = 100  # of one agent; further runs wait
LIST_BYTES = 1024 * 1024  # of a list of models
ERROR_BYTES = 16 * 1024  # of the body of an error that are read
ERROR_CHARACTERS = 500  # of a text of the server that are logged
ENDING_SECONDS = 0.2  # to read the end of a stream, so that the connection can be reused

_RETRYABLE = {408, 425, 429}
_SERVER_ERROR = 500
_REDIRECTS = range(300, 400)
_PARTIAL = (httpx2.RemoteProtocolError, httpx2.ReadError)

_log = structlog.get_logger(__name__)

Forward = Callable[[Delta], Awaitable[None]]
"""Receives a piece of an answer; the next one is read from the socket when it has returned."""


class Provider:
    """A server that speaks the Chat Completions API.

    Args:
        base_url: Its address, up to `/v1`.
        key: Its key; None if it needs none.
        idle_seconds: Seconds without a byte after which an answer fails.

    Raises:
        ValueError: `base_url` is not an http or https URL, or contains a password.
    """

    def __init__(
        self, base_url: str, key: Key | None, *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        _check_url(base_url)
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._idle_seconds = idle_seconds
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the connections to the server."""
        timeout = httpx2.Timeout(
            connect=CONNECT_SECONDS, read=self._idle_seconds, write=CONNECT_SECONDS, pool=None
        )
        limits = httpx2.Limits(max_connections=CONNECTIONS)
        # Without compression: a small compressed piece can expand to a thousand times its size.
        headers = {"accept-encoding": "identity", **(self._key.headers if self._key else {})}
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def check(self) -> Sequence[str]:
        """Ask the server for its models, to find a wrong address or key before the first run.

        Returns:
            Their names; none if the server cannot list them, or does not answer in time.

        Raises:
            ModelError: It cannot be reached, or rejects the key.
        """
        try:
            with trio.move_on_after(CHECK_SECONDS):
                async with self._opened().stream("GET", f"{self.base_url}/models") as answer:
                    status = answer.status_code
                    limit = LIST_BYTES if status == httpx2.codes.OK else ERROR_BYTES
                    content = await _beginning(answer, limit)
                    if status in {401, 403}:
                        raise self._refusal(status, content, answer.headers)
                    return _names_in(content)
        except (httpx2.ReadTimeout, *_PARTIAL):
            return ()
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        return ()

    async def answer(self, request: JsonObject, forward: Forward) -> Completion:
        """Send a request, and forward the answer as it arrives.

        Cancelling closes the connection to the server. A request without any output is repeated up
        to twice after 408, 425, 429, 5xx and errors of the connection.

        Raises:
            ModelError: There is no complete answer.
            Exception: Whatever `forward` raises.
        """
        attempt = 1
        while True:
            completion = Completion()
            try:
                await self._ask(request, completion, forward)
            except ModelError as error:
                pause = _pause(error, attempt)
                if completion.has_output or pause is None:
                    raise
                _log.warning("model_retried", attempt=attempt, reason=error.detail, pause=pause)
            else:
                return completion
            await trio.sleep(pause)
            attempt += 1

    async def _ask(self, request: JsonObject, completion: Completion, forward: Forward) -> None:
        body = orjson.dumps({**request, "stream": True})
        url = f"{self.base_url}/chat/completions"
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        try:
            async with self._opened().stream("POST", url, content=body, headers=headers) as answer:
                if answer.status_code != httpx2.codes.OK:
                    content = await _beginning(answer)
                    raise self._refusal(answer.status_code, content, answer.headers)
                await self._read(answer, completion, forward)
        except httpx2.ReadTimeout:
            text = f"The model's server sent nothing for {self._idle_seconds:g} s."
            raise ModelError(text, f"{url}: {text}") from None
        except _PARTIAL as error:
            if not completion.is_finished:
                detail = f"{url}: the connection broke off: {error}"
                raise ModelError(UNFINISHED, detail, is_retryable=True) from None
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        if not completion.is_finished:
            detail = f"{url}: the answer ended without a finish_reason and without [DONE]"
            raise ModelError(UNFINISHED, detail, is_retryable=True)

    async def _read(
        self, answer: httpx2.Response, completion: Completion, forward: Forward
    ) -> None:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ModelError(
                "The model's server sent an answer that cannot be read.",
                f"{self.base_url}: a compressed answer, which was not asked for",
            )
        # `aiter_raw` reads from the socket only when the piece before it was forwarded.
        raw = answer.aiter_raw()
        try:
            if answer.headers.get("content-type", "").startswith("application/json"):
                await self._take(await _whole(raw), completion, forward)
                completion.is_done = True
            else:
                await self._read_messages(raw, completion, forward)
        except BaseException:
            await _end_of(raw, 0)
            raise
        await _end_of(raw, ENDING_SECONDS)

    async def _read_messages(
        self, raw: AsyncIterator[bytes], completion: Completion, forward: Forward
    ) -> None:
        parser = EventParser()
        async for data in raw:
            for message in self._fed(parser, data):
                await self._take(message, completion, forward)
            if completion.is_done:
                return
        for message in parser.end():
            await self._take(message, completion, forward)

    def _fed(self, parser: EventParser, data: bytes) -> list[str]:
        try:
            return parser.feed(data)
        except MessageTooLong as error:
            text = "The model's server sent an answer that cannot be read."
            raise ModelError(text, f"{self.base_url}: {error}") from None

    async def _take(self, message: str, completion: Completion, forward: Forward) -> None:
        if completion.is_done:
            return
        try:
            delta = completion.feed(message)
        except ModelError as error:
            error.detail = f"{self.base_url}: {self._shown(error.detail)}"
            raise
        if delta.text or delta.thought:
            await forward(delta)

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            raise RuntimeError("the agent is not open: serve it with create_app(agents=…)")
        return self._client

    def _unreachable(self, error: httpx2.TransportError) -> ModelError:
        detail = (
            f"no connection to {self.base_url}: {_reason(error)}; "
            "start the model's server, or correct its address (base_url, --base-url)"
        )
        return ModelError("The model's server cannot be reached.", detail, is_retryable=True)

    def _refusal(self, status: int, content: bytes, headers: httpx2.Headers) -> ModelError:
        """Return the error for an answer with another status than 200."""
        shown, code = _error_text(content)
        detail = f"{self.base_url} answered {status}"
        if shown:
            detail += f": {self._shown(shown)}"
        if status in {401, 403}:
            advice = f"set {KEY} or {KEY_FILE}" if self._key is None else f"check {KEY}"
            return ModelError("The model's server rejected the API key.", f"{detail}; {advice}")
        if status == httpx2.codes.NOT_FOUND:
            text = "The model's server has no such model, or has another address."
            return ModelError(text, f"{detail}; check the model's name and base_url (--base-url)")
        if status in _REDIRECTS:
            text = "The model's server has another address."
            location = self._shown(headers.get("location", "none"))
            return ModelError(text, f"{detail} (location: {location})")
        if code == "insufficient_quota":
            return ModelError("The quota at the model's server is used up.", detail)
        if status not in _RETRYABLE and status < _SERVER_ERROR:
            return ModelError(f"The model's server rejected the request ({status}).", detail)
        return ModelError(
            f"The model's server is overloaded or failing ({status}).",
            detail,
            is_retryable=True,
            retry_after=_retry_after(headers.get("retry-after")),
        )

    def _shown(self, text: str) -> str:
        """Return a text of the server for the log, without the key, and cut."""
        # Cut last: `hide` does not find a key of which a part was cut.
        hidden = text if self._key is None else self._key.hide(text)
        return hidden[:ERROR_CHARACTERS].strip()


def _check_url(url: str) -> None:
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ValueError("base_url: expected a URL with http:// or https://, without blanks")
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("base_url: leave out user, password, query and fragment")


def _pause(error: ModelError, attempt: int) -> float | None:
    """Return the seconds before the next attempt; None if there is none."""
    if not error.is_retryable or attempt == ATTEMPTS:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= RETRY_AFTER_MAX else None
    return BACK_OFF * 2.0 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret


def _retry_after(text: str | None) -> float | None:
    """Return the seconds of a header `Retry-After`: a number, or a date."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text.strip()):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    seconds = (when - datetime.now(UTC)).total_seconds()
    return seconds if seconds > 0 else 0.0


def _reason(error: BaseException) -> str:
    """Return the operating system's reason for a failure, such as `Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        group = cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
        for each in (cause, *group):
            if isinstance(each, ssl.SSLError):  # its numbers are not those of the system
                return f"no TLS ({each.reason or each}); the address may begin with http://"
            if isinstance(each, OSError) and each.errno is not None:
                known = each.errno > 0 and each.errno in errno.errorcode
                return os.strerror(each.errno) if known else each.strerror or str(each)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


async def _beginning(answer: httpx2.Response, limit: int = ERROR_BYTES) -> bytes:
    """Return the beginning of a body."""
    content = bytearray()
    raw = answer.aiter_raw()
    async for data in raw:
        content += data
        if len(content) >= limit:
            break
    await _end_of(raw, 0)
    return bytes(content[:limit])


async def _end_of(raw: AsyncIterator[bytes], seconds: float) -> None:
    """Read what is left of a body for some seconds, and else close the connection.

    A generator that is not read to its end leaves the HTTP client's inner generators to the garbage
    collector. A cancelled read ends all of them at once.
    """
    with suppress(httpx2.TransportError), trio.move_on_after(seconds):
        async for _ in raw:
            pass


async def _whole(raw: AsyncIterator[bytes]) -> str:
    content = bytearray()
    async for data in raw:
        content += data
        if len(content) > ANSWER_BYTES:
            raise ModelError(f"The model's answer is longer than {ANSWER_BYTES} bytes.")
    return content.decode(errors="replace")


def _names_in(content: bytes) -> Sequence[str]:
    """Return the names in a list of models; none if it is no such list."""
    try:
        listed = orjson.loads(content)["data"]
        return [str(each["id"]) for each in listed]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return ()


def _error_text(content: bytes) -> tuple[str, str]:
    """Return the text and the code of an error body, in the forms that servers use."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace"), ""
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return str(error), ""
    text = error.get("message") or error.get("detail") or ""
    return str(text), str(error.get("code") or error.get("type") or "")
