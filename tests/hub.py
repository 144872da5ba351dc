"""A Hub on this machine: folders of models and data sets, served as the Hub's client asks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _listed(folder: Path, name: str) -> dict[str, object]:
    content = (folder / name).read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": name, "oid": oid, "size": len(content)}


@contextmanager
def local_hub(
    models: dict[str, Path], datasets: dict[str, Path] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve folders by id; gives the address, and the files that were fetched so far."""
    repos = {f"models/{name}": (name, folder) for name, folder in models.items()}
    repos |= {
        f"datasets/{name}": (f"datasets/{name}", folder)
        for name, folder in (datasets or {}).items()
    }
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            for api, (repo, folder) in repos.items():
                if path.startswith(f"/api/{api}/revision/"):
                    files = [{"rfilename": name} for name in _names(folder)]
                    about = {"id": repo, "sha": COMMIT, "siblings": files}
                    return self._send(json.dumps(about).encode(), with_body)
                if path.startswith(f"/api/{api}/tree/"):
                    listed = [_listed(folder, name) for name in _names(folder)]
                    return self._send(json.dumps(listed).encode(), with_body)
                name = path.removeprefix(f"/{repo}/resolve/{COMMIT}/")
                if name != path and (folder / name).is_file():
                    if with_body:
                        fetched.append(name)
                    return self._send((folder / name).read_bytes(), with_body)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None

        def _send(self, body: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
