"""A language model behind an OpenAI-compatible endpoint, asked with care.

A reply takes `timeout` seconds at most, headers and all, however slowly it drips. What fails in a
way that may pass (no connection, a stall, status 408, 429 or 5xx, no JSON, an answer that breaks
off) is tried again, each time after twice the wait; anything else fails at once. So many requests
run at a time, and no more than a budget in all. Replies are kept on disk by what was asked, so
that a second run pays for nothing twice. Nothing raises: a prompt that fails says why.

Plain `http.client`: no proxy, no redirect.
"""

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax import files
from tgvlm_jax.judges.judge import Reply
from tgvlm_jax.types import InputError

Content = str | list[dict[str, Any]]
"""What a user says: text, or parts of text and images as the endpoint takes them."""

_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_REPLY = 4 * 2**20  # bytes
_LONGEST_WAIT = 30.0  # seconds


class _Failure(Exception):
    """A request that failed; `passing` where another may not, after `wait` seconds at least."""

    def __init__(self, reason: str, *, passing: bool, wait: float = 0.0):
        super().__init__(reason)
        self.passing, self.wait = passing, wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of an endpoint; see `schema.JudgeConfig`. `backoff` is the first wait, in seconds."""

    url: str
    model: str
    key: str = ""
    max_tokens: int = 512
    timeout: float = 60.0
    retries: int = 3
    concurrency: int = 8
    cache: str = ""
    budget: int = 0
    backoff: float = 0.5


class Chat:
    """Answers prompts, from any number of threads."""

    def __init__(self, settings: Settings):
        """Raises InputError where the URL is none or the cache cannot be written."""
        self.settings = settings
        try:
            self._url = urllib.parse.urlsplit(settings.url.rstrip("/") + "/chat/completions")
            known = self._url.scheme in ("http", "https") and bool(self._url.hostname)
            self._port = self._url.port
        except ValueError:
            known = False
        if not known:
            raise InputError(f"{settings.url!r}: no URL such as http://localhost:8000/v1")
        self._cache = Path(settings.cache) if settings.cache else None
        if self._cache is not None:
            files.make_folder(self._cache)
        self._pool = concurrent.futures.ThreadPoolExecutor(settings.concurrency)
        self._lock, self.sent = threading.Lock(), 0

    def __call__(self, prompts: Sequence[Content]) -> list[Reply]:
        """A reply to each prompt."""
        return list(self._pool.map(self._answer, prompts))

    def again(self, prompts: Sequence[Content]) -> list[Reply]:
        """The same without looking for replies that were kept."""
        return list(self._pool.map(lambda prompt: self._answer(prompt, kept=False), prompts))

    def close(self) -> None:
        """Drops what has not been asked yet."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, prompt: Content, *, kept: bool = True) -> Reply:
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.settings.max_tokens,
            "temperature": 0,
        }
        data = json.dumps(body, sort_keys=True).encode()
        path = self._path(data)
        if kept and path is not None and (text := _kept(path)) is not None:
            return Reply(text=text)
        try:
            text = self._persist(data)
        except _Failure as failure:
            return Reply(text="", failure=str(failure))
        if path is not None:
            try:
                path.parent.mkdir(exist_ok=True)
                files.write_text(path, json.dumps({"text": text}))
            except (InputError, OSError):
                pass  # a full disk costs the cache, not the reply
        return Reply(text=text)

    def _path(self, data: bytes) -> Path | None:
        """Where a reply is kept; another endpoint's replies are others."""
        if self._cache is None:
            return None
        name = hashlib.sha256(self.settings.url.encode() + b"\n" + data).hexdigest()
        return self._cache / name[:2] / f"{name}.json"

    def _persist(self, data: bytes) -> str:
        """Asks until there is a reply, or no more use."""
        wait = self.settings.backoff
        for attempt in range(self.settings.retries + 1):
            try:
                self._spend()
                return self._ask(data)
            except _Failure as failure:
                if not failure.passing or attempt == self.settings.retries:
                    raise
                # Spread, so that requests that failed together do not come back together.
                longer = max(failure.wait, wait * random.uniform(0.5, 1.5))
                time.sleep(min(longer, _LONGEST_WAIT))
                wait *= 2
        raise AssertionError("the last attempt returns or raises")

    def _spend(self) -> None:
        with self._lock:
            if self.settings.budget and self.sent >= self.settings.budget:
                spent = f"the budget of {self.settings.budget} requests is spent"
                raise _Failure(spent, passing=False)
            self.sent += 1

    def _ask(self, data: bytes) -> str:
        """One request."""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else None
        connection = (kind or http.client.HTTPConnection)(
            self._url.hostname or "", self._port, timeout=self.settings.timeout
        )
        late = threading.Event()
        timer = threading.Timer(self.settings.timeout, _cut, (connection, late))
        timer.daemon = True
        timer.start()
        try:
            connection.request("POST", self._url.path, body=data, headers=self._headers())
            response = connection.getresponse()
            raw = response.read(_LONGEST_REPLY + 1)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # The last two come of a connection that was cut while it was being read.
            if late.is_set() or isinstance(error, TimeoutError):
                reason = f"no reply within {self.settings.timeout:g} s"
            else:
                reason = f"{type(error).__name__}: {error}"
            raise _Failure(reason, passing=True) from None
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():
            raise _Failure(f"no reply within {self.settings.timeout:g} s", passing=True)
        return _read(response, raw)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.settings.key:
            headers["Authorization"] = f"Bearer {self.settings.key}"
        return headers


def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    """Ends a connection under whoever reads from it."""
    late.set()
    if (link := connection.sock) is not None:
        try:
            link.shutdown(socket.SHUT_RDWR)
        except OSError:
            link.close()


def _kept(path: Path) -> str | None:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _read(response: http.client.HTTPResponse, raw: bytes) -> str:
    """The text of a reply."""
    if response.status != 200:
        shown = " ".join(raw[:200].decode(errors="replace").split())
        reason, passing = f"status {response.status}: {shown}", response.status in _PASSING
        raise _Failure(reason, passing=passing, wait=_seconds(response.getheader("Retry-After")))
    if len(raw) > _LONGEST_REPLY:
        raise _Failure(f"a reply of more than {_LONGEST_REPLY} bytes", passing=False)
    length = response.getheader("Content-Length") or ""
    if length.isdigit() and len(raw) < int(length):
        raise _Failure(f"the reply breaks off after {len(raw)} of {length} bytes", passing=True)
    try:
        text = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        shown = " ".join(raw[:100].decode(errors="replace").split())
        raise _Failure(f"no chat completion: {shown!r}", passing=True) from None
    if not isinstance(text, str):
        raise _Failure("a chat completion without text", passing=True)
    return text


def _seconds(text: str | None) -> float:
    """Of a Retry-After; dates are not read."""
    try:
        return min(max(float(text or 0), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0
