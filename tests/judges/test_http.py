"""The client against a real server on loopback that stalls, fails, babbles and dies."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from tgvlm_jax.judges.http import Chat, Settings
from tgvlm_jax.judges.judge import Case, ModelJudge
from tgvlm_jax.types import InputError

YES = "They do. <judgement>Yes</judgement>"


def completion(text):
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Endpoint:
    """Answers by what the prompt says; every request is noted.

    A prompt is words such as "stall 500 ok": what the first, second, third request about it get,
    the last of them for ever after.
    """

    def __init__(self):
        self.seen, self.lock, self.open, self.most = [], threading.Lock(), 0, 0
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                endpoint.serve(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, handler):
        size = int(handler.headers["Content-Length"])
        body = json.loads(handler.rfile.read(size))
        prompt = body["messages"][0]["content"]
        with self.lock:
            self.seen.append((prompt, body, dict(handler.headers), handler.path))
            turn = sum(one[0] == prompt for one in self.seen) - 1
        script = prompt.split() if isinstance(prompt, str) else ["ok"]
        with contextlib.suppress(OSError):
            self.act(handler, script[min(turn, len(script) - 1)])

    def think(self, seconds):
        """Before a byte of the reply is sent: requests that are here together overlap."""
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        time.sleep(seconds)
        with self.lock:
            self.open -= 1

    def act(self, handler, what):
        close = what in ("die", "dies_late", "drip", "stall", "chunks")
        handler.close_connection = close
        if what in ("stall", "slow"):
            self.think(1.0 if what == "stall" else 0.05)
        if what == "die":
            return
        if what.isdigit():
            handler.send_response(int(what))
            handler.send_header("Content-Length", "4")
            handler.end_headers()
            handler.wfile.write(b"oops")
            return
        text = {"garbage": b"<html>hm</html>", "empty": b"", "list": b"[1, 2]"}.get(what)
        data = completion(None if what == "null" else YES) if text is None else text
        handler.send_response(200)
        if what == "chunks":  # a body that breaks off in the middle of a chunk
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"100\r\n" + data[:20])
            return
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if what == "dies_late":
            handler.wfile.write(data[: len(data) // 2])
            return
        if what == "drip":  # never silent for long, and never done
            for byte in data:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.05)
            return
        handler.wfile.write(data)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint():
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def chat(endpoint):
    made = []

    def build(**changes):
        settings = {"timeout": 0.3, "retries": 2, "backoff": 0.01, "concurrency": 4}
        made.append(Chat(Settings(url=endpoint.url, model="judge", **settings | changes)))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_what_is_asked_for(endpoint, chat):
    (reply,) = chat(key="secret", max_tokens=7)(["ok"])
    assert (reply.text, reply.failure) == (YES, "")
    _, body, headers, path = endpoint.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "judge",
        "messages": [{"role": "user", "content": "ok"}],
        "max_tokens": 7,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    "trouble",
    ["stall", "drip", "die", "dies_late", "chunks", "500", "503", "429", "garbage", "empty"],
)
def test_trouble_that_passes(trouble, endpoint, chat):
    (reply,) = chat()([f"{trouble} ok"])
    assert (reply.text, reply.failure) == (YES, "")
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize(
    ("trouble", "requests", "reason"),
    [
        ("stall", 3, "no reply within 0.3 s"),
        ("drip", 3, "no reply within 0.3 s"),
        ("die", 3, "RemoteDisconnected"),
        ("dies_late", 3, "IncompleteRead|breaks off"),
        ("chunks", 3, "IncompleteRead"),
        ("500", 3, "status 500: oops"),
        ("garbage", 3, "no chat completion: '<html>hm</html>'"),
        ("list", 3, "no chat completion"),
        ("null", 3, "without text"),
        ("400", 1, "status 400"),
        ("401", 1, "status 401"),
    ],
)
def test_trouble_that_stays(trouble, requests, reason, endpoint, chat):
    """Bounded in requests and in time; the others are answered all the same."""
    began = time.monotonic()
    replies = chat()([trouble, "ok", trouble + " "])
    assert time.monotonic() - began < 3.0
    assert [one.text for one in replies] == ["", YES, ""]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(replies[0].failure)
    assert sum(one[0] == trouble for one in endpoint.seen) == requests


def test_nobody_is_there():
    one = Chat(Settings(url="http://127.0.0.1:9", model="x", retries=1, backoff=0.01))
    assert "Connection" in one(["ok"])[0].failure
    one.close()


def test_so_many_at_a_time(endpoint, chat):
    replies = chat(concurrency=3, timeout=5.0)([f"slow slow {n}" for n in range(12)])
    assert len(replies) == 12
    assert endpoint.most <= 3


def test_a_budget_bounds_the_costs(endpoint, chat):
    replies = chat(budget=5, concurrency=1, retries=0)(["ok " + "x" * n for n in range(8)])
    assert len(endpoint.seen) == 5
    assert [bool(one.failure) for one in replies] == [False] * 5 + [True] * 3
    assert replies[-1].failure == "the budget of 5 requests is spent"
    assert chat(budget=2, retries=9)(["500"])[0].failure.startswith("the budget")
    assert len(endpoint.seen) == 7


def test_replies_are_kept_and_failures_are_not(endpoint, chat, tmp_path):
    cache = str(tmp_path / "kept")
    for _ in range(2):
        replies = chat(cache=cache, retries=0)(["ok", "500 500 ok"])
        assert replies[0].text == YES
        assert replies[1].failure
    assert [one[0] for one in endpoint.seen].count("ok") == 1
    (path,) = (tmp_path / "kept").rglob("*.json")
    path.write_text('{"te')  # damaged: asked again
    assert chat(cache=cache)(["ok"])[0].text == YES
    assert [one[0] for one in endpoint.seen].count("ok") == 2
    assert chat(cache=cache).again(["ok"])[0].text == YES
    assert [one[0] for one in endpoint.seen].count("ok") == 3
    assert chat(cache=cache)(["ok"])[0].text == YES
    assert [one[0] for one in endpoint.seen].count("ok") == 3
    assert chat(cache=cache, max_tokens=9)(["ok"])[0].text == YES  # another request
    assert [one[0] for one in endpoint.seen].count("ok") == 4


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a/b", "http://", "http://a:b"])
def test_a_url_that_is_none(url):
    with pytest.raises(InputError, match="no URL such as"):
        Chat(Settings(url=url, model="x"))


def test_a_judge_behind_it(endpoint, chat):
    """A case that fails says why and is not sufficient; nothing is lost."""
    client = chat(retries=0)
    judge = ModelJudge(client, again=client.again)
    cases = [Case(question=q, answer="a", observation="o") for q in ("x", "y")]
    verdicts = judge(cases)
    assert [one.sufficient for one in verdicts] == [True, True]
    endpoint.close()
    verdicts = judge(cases)
    assert [one.sufficient for one in verdicts] == [False, False]
    assert all(one.failure for one in verdicts)
