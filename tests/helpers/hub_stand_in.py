"""A stand-in for the Hugging Face hub: the part of its HTTP API that uploading and downloading models needs.

Written against the requests of huggingface_hub 2.4, and tested with nothing else. It keeps repositories in memory, has
one branch and one token, stores files through Git LFS or in the commit, and has no Xet (set HF_HUB_DISABLE_XET).
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN, USER = "hf_token_of_the_stand_in", "somebody"
LFS_BYTES = 2**16  # files from this size on are uploaded through LFS


class StandIn(ThreadingHTTPServer):
    """Serves at `address`; `requests` lists the methods and paths requested so far."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status: int | None = None  # status of every answer, to simulate a broken hub
        self.address = f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo_id: str) -> str:
        """The hash that names the state of a repository."""
        files = sorted(self.repositories[repo_id].items())
        return hashlib.sha1(b"".join(name.encode() + content for name, content in files)).hexdigest()


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """A stand-in that serves until the block ends."""
    server = StandIn()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _serve(self) -> None:
        if self.path != "/api/agent-harnesses":  # huggingface_hub's own statistics
            self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.status is not None:
            self._answer(self.server.status, {"error": "the stand-in is out of order"})
            return
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, self.path.partition("?")[0])
            if match and self.command in method:
                answer(self, body, *match.groups())
                return
        self._answer(404, {"error": f"the stand-in knows no {self.path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def whoami(self, _: bytes) -> None:
        if self._is_known():
            self._answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        else:
            self._answer(401, {"error": "Invalid username or password."})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if not self._is_known() or not repo_id.startswith(f"{USER}/"):
            self._answer(403, {"error": f"no rights to create {repo_id}"})
        elif repo_id in self.server.repositories:
            self._answer(
                409, {"error": "You already created this model repo", "url": f"{self.server.address}/{repo_id}"}
            )
        else:
            self.server.repositories[repo_id] = {}
            self._answer(200, {"url": f"{self.server.address}/{repo_id}"})

    def preupload(self, body: bytes, repo_id: str) -> None:
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["size"] >= LFS_BYTES else "regular" for file in files}
        self._answer(
            200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
        )

    def lfs_batch(self, body: bytes, repo_id: str) -> None:
        objects = json.loads(body)["objects"]
        for one in objects:
            href = f"{self.server.address}/lfs/{one['oid']}"
            one["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._answer(400, {"error": "the content is not that of its checksum"})
            return
        self.server.lfs_objects[oid] = body
        self._answer(200)

    def lfs_verify(self, body: bytes, oid: str) -> None:
        whole = len(self.server.lfs_objects.get(oid, b"")) == json.loads(body)["size"]
        self._answer(200 if whole else 404, {})

    def validate_yaml(self, _: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def commit(self, body: bytes, repo_id: str) -> None:
        files = self.server.repositories[repo_id]
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs_objects[value["oid"]]
        sha = self.server.commit(repo_id)
        self._answer(200, {"commitUrl": f"{self.server.address}/{repo_id}/commit/{sha}", "commitOid": sha})

    def info(self, _: bytes, repo_id: str) -> None:
        if repo_id not in self.server.repositories:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        files = [{"rfilename": name} for name in self.server.repositories[repo_id]]
        sha = self.server.commit(repo_id)
        self._answer(200, {"id": repo_id, "modelId": repo_id, "sha": sha, "private": False, "siblings": files})

    def tree(self, _: bytes, repo_id: str, revision: str) -> None:
        rows = []
        for name, content in self.server.repositories[repo_id].items():
            row = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 in self.server.lfs_objects:
                row["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            rows.append(row)
        self._answer(200, rows)

    def resolve(self, _: bytes, repo_id: str, revision: str, name: str) -> None:
        content = self.server.repositories.get(repo_id, {}).get(name)
        if content is None:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        sha256 = hashlib.sha256(content).hexdigest()
        etag = sha256 if sha256 in self.server.lfs_objects else hashlib.sha1(content).hexdigest()
        self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=self.server.commit(repo_id))


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate_yaml),
    (("POST",), rf"/api/models/{REPO}/preupload/main", _Handler.preupload),
    (("POST",), rf"/api/models/{REPO}/commit/main", _Handler.commit),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs/(\w+)", _Handler.lfs_upload),
    (("POST",), r"/lfs/(\w+)/verify", _Handler.lfs_verify),
    (("GET",), rf"/api/models/{REPO}", _Handler.info),
    (("GET",), rf"/api/models/{REPO}/revision/main", _Handler.info),
    (("GET",), rf"/api/models/{REPO}/tree/(\w+)", _Handler.tree),
    (("GET", "HEAD"), rf"/{REPO}/resolve/(\w+)/(.+)", _Handler.resolve),
]
