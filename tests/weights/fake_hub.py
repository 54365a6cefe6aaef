"""A stand-in for the Hugging Face hub on this machine: one repository, read only."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files under a folder as a repository; use as a context manager.

    Attributes:
      url: for ``HF_ENDPOINT``.
      asked: method and path of every request.
    """

    def __init__(self, repository: str, folder: Path):
        self.repository, self.folder, self.asked = repository, folder, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if path.startswith(f"/api/models/{self.repository}/tree/"):
            _send(request, json.dumps(self._tree()).encode(), {"Content-Type": "application/json"})
        elif path in (base := f"/api/models/{self.repository}", f"{base}/revision/main"):
            info = {
                "_id": "1",
                "id": self.repository,
                "modelId": self.repository,
                "sha": COMMIT,
                "private": False,
                "tags": [],
                "siblings": [{"rfilename": entry["path"]} for entry in self._tree()],
            }
            _send(request, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif path.startswith(start := f"/{self.repository}/resolve/"):
            file = self.folder / path.removeprefix(start).split("/", 1)[1]
            if file.is_file():
                data = file.read_bytes()
                tag = hashlib.sha1(data).hexdigest()
                _send(request, data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            else:
                _send(request, b"", {"X-Error-Code": "EntryNotFound"}, 404)
        else:
            _send(request, b"", {"X-Error-Code": "RepoNotFound"}, 404)

    def _tree(self) -> list[dict]:
        return [
            {
                "type": "file",
                "path": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]


def _send(request: BaseHTTPRequestHandler, data: bytes, headers: dict, status: int = 200) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(data))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(data)
