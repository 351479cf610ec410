"""The part of Google Cloud Storage's JSON API that reading and writing shards needs, in memory.

Real clients talk to it over HTTP: gcsfs, and the C++ reader of ArrayRecord.
"""

import contextlib
import datetime
import email
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator


class Bucket:
    """The objects of all buckets by `bucket/name`, and the requests that were made."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: dict[str, str] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, bytearray] = {}
        self.url = ""

    def put(self, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.written[key] = datetime.datetime.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def about(self, key: str) -> dict[str, str]:
        bucket, _, name = key.partition("/")
        about = {"kind": "storage#object", "bucket": bucket, "name": name, "generation": "1"}
        about |= {"size": str(len(self.objects[key])), "updated": self.written[key]}
        return about | {"timeCreated": self.written[key], "id": key}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # readers hang up when they have enough
            super().handle()

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def say(self, found: object) -> None:
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def parse(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        found = re.fullmatch(
            r"(/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", url.path
        )
        assert found, self.path
        self.name = urllib.parse.unquote(found[3] or self.query.get("name", ""))
        self.of, self.key = found[2], f"{found[2]}/{self.name}"
        self.bucket.requests.append(f"{self.command} {self.key}")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        self.parse()
        if not self.name:
            return self.listing() if "/o" in self.path else self.say({"name": self.of})
        if self.key not in self.bucket.objects:
            return self.answer(404, b'{"error": {"message": "no such object", "code": 404}}')
        if self.query.get("alt") != "media" and not self.path.startswith("/download"):
            return self.say(self.bucket.about(self.key))
        content, asked = self.bucket.objects[self.key], self.headers.get("Range")
        start, stop = 0, len(content)
        if asked:
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", asked).groups()
            start = int(first) if first else max(0, stop - int(last))
            stop = min(stop, int(last) + 1) if first and last else stop
        where = f"bytes {start}-{stop - 1}/{len(content)}"
        return self.answer(206 if asked else 200, content[start:stop], Content_Range=where)

    def listing(self) -> None:
        prefix, cut = self.query.get("prefix", ""), self.query.get("delimiter")
        items, folders = [], set()
        for key in sorted(self.bucket.objects):
            of, _, name = key.partition("/")
            if of != self.of or not name.startswith(prefix):
                continue
            head, found, _ = name.removeprefix(prefix).partition(cut) if cut else (name, "", "")
            if found:
                folders.add(prefix + head + found)
            else:
                items.append(self.bucket.about(key))
        self.say({"items": items, "prefixes": sorted(folders)})

    def do_POST(self) -> None:
        if self.path.startswith("/batch"):
            return self.batch()
        self.parse()
        content = self.body()
        if "upload_id" in self.query:
            return self.upload(content)
        kind = self.query["uploadType"]
        if kind == "multipart":
            edge = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1]
            about, data = content.split(b"\n\n", 2)[1:]
            name = json.loads(about.partition(b"\n--")[0])["name"]
            self.bucket.put(f"{self.of}/{name}", data.removesuffix(f"\n--{edge}--".encode()))
            return self.say(self.bucket.about(f"{self.of}/{name}"))
        assert kind == "resumable"
        name = json.loads(content or b"{}").get("name") or self.name
        place = f"/upload/storage/v1/b/{self.of}/o/{urllib.parse.quote(name, safe='')}"
        self.bucket.uploads[f"{self.of}/{name}"] = bytearray()
        return self.answer(200, Location=f"{self.bucket.url}{place}?upload_id=1")

    def upload(self, content: bytes) -> None:
        """One piece of a large object; it is there when the last one is."""
        self.bucket.uploads[self.key] += content
        if self.headers["Content-Range"].endswith("/*"):
            end = len(self.bucket.uploads[self.key]) - 1
            return self.answer(308, Range=f"bytes=0-{end}")
        self.bucket.put(self.key, bytes(self.bucket.uploads.pop(self.key)))
        return self.say(self.bucket.about(self.key))

    def do_DELETE(self) -> None:
        self.parse()
        gone = self.bucket.objects.pop(self.key, None)
        self.answer(404 if gone is None else 204)

    def batch(self) -> None:
        """Many deletions in one request."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        answers = []
        for part in email.message_from_bytes(head + self.body()).get_payload():
            path = re.match(r"DELETE (\S+)", part.get_payload().lstrip())[1]
            bucket, name = re.search(r"/b/([^/]+)/o/([^?\s]+)", path).groups()
            gone = self.bucket.objects.pop(f"{bucket}/{urllib.parse.unquote(name)}", None)
            status = "404 Not Found" if gone is None else "204 No Content"
            answers.append(
                f"--x\r\nContent-Type: application/http\r\nContent-ID: <response-"
                f"{part['Content-ID'].strip('<>')}>\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
            )
        content = ("".join(answers) + "--x--").encode()
        self.answer(200, content, Content_Type="multipart/mixed; boundary=x")


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """Buckets on a port of this machine; `url` says which."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
