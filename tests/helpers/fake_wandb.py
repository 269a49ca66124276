"""A W&B server on loopback, as small as the client allows, and a reader of offline run files."""

from __future__ import annotations

import gzip
import json
import re
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

KEY = "0123456789abcdef0123456789abcdef01234567"
"""Any 40 characters serve as a key."""

Behaviour = Literal["answers", "refuses", "hangs", "stalls"]


@dataclass
class Run:
    """What W&B knows of one run, from either side."""

    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    """Metric (or pattern of metrics) -> the metric it is drawn along."""
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Artifact -> its files' names -> where they lie."""


# --- offline ----------------------------------------------------------------------------------


def read_offline(folder: Path) -> dict[str, Run]:
    """The offline runs below `folder`, by id; an id that is there twice is an error."""
    runs: dict[str, Run] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        run = _run_of(_records(path.read_bytes()))
        assert run.id not in runs, f"{run.id} was written twice"
        runs[run.id] = run
    return runs


def _run_of(records: Iterable[Any]) -> Run:
    run = Run()
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.project, run.name = found.run_id, found.project, found.display_name
            run.group, run.job_type, run.tags = found.run_group, found.job_type, list(found.tags)
            run.config |= _values(found.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "metric":
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            files = {entry.path: entry.local_path for entry in contents}
            run.artifacts[record.artifact.name] = files
    return run


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes, block: int = 32 * 1024) -> Iterator[Any]:
    """The records of a transaction log: protobuf in LevelDB's framing, after 7 bytes of header."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")  # generated: it has no types
    at, body = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # the rest of a block is too short for a header
            at += block - at % block
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        body += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # a whole record, or its last part
            record = messages.Record()
            record.ParseFromString(body)
            yield record
            body = b""


# --- online -----------------------------------------------------------------------------------


@dataclass
class Server:
    """The running fake: what it was sent."""

    url: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    requests: int = 0


@contextmanager
def serving(behaviour: Behaviour = "answers") -> Iterator[Server]:
    """A server on a free port of loopback.

    It answers; or refuses every key (401); or accepts connections and never answers (hangs); or
    begins runs and never takes their data (stalls).
    """
    server = Server()
    leave = threading.Event()

    class Handler(_Handler):
        fake, how, ended = server, behaviour, leave

    http = _Quiet(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        leave.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    fake: Server
    how: Behaviour
    ended: threading.Event
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("file_stream"):
            if self.how == "answers":
                self._stream(self.path.split("/")[-2], body)
            self._answer({}, never=self.how == "stalls")
        else:
            self._answer({"data": self._graphql(body["query"], body.get("variables") or {})})

    def _body(self) -> Any:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        return json.loads(data or b"{}") if self.command == "POST" else data

    def _answer(self, body: Any, never: bool = False) -> None:
        self.fake.requests += 1
        if never or self.how == "hangs":
            self.ended.wait()
            self.close_connection = True
            return
        text = json.dumps(body).encode()
        self.send_response(401 if self.how == "refuses" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, identity: str, body: Any) -> None:
        """Lines of history and summary, which the client appends as it goes."""
        run = self.fake.runs[identity]
        for name, sent in (body.get("files") or {}).items():
            rows = [json.loads(line) for line in sent["content"]]
            if name == "wandb-history.jsonl":
                run.history[sent["offset"] :] = rows
            elif name == "wandb-summary.json":
                run.summary |= rows[-1]

    def _graphql(self, query: str, given: dict[str, Any]) -> Any:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found.group(1) if found else ""
        given = given.get("input", given)
        upload = {"uploadUrl": f"{self.fake.url}/upload", "uploadHeaders": []}
        if operation == "Viewer":
            viewer = {"id": "1", "entity": "us", "username": "us", "flags": "{}"}
            return {"viewer": {**viewer, "teams": {"edges": []}}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation in ("OrganizationCoreWeaveOrganizationID", "XXHashDigestsEnabled"):
            return {"entity": None}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "RunResumeStatus":
            return {"model": {**_project(given["project"]), "bucket": self._stored(given["name"])}}
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(given)}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": upload["uploadUrl"]} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            name = given["artifactCollectionName"]
            self.fake.artifacts.append(name)
            new = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": new}}
        if operation == "CreateArtifactManifest":
            manifest = {"id": "m", "file": {"id": "f", **upload}}
            return {"createArtifactManifest": {"artifactManifest": manifest}}
        if operation == "CreateArtifactFiles":
            nodes = [
                {"node": {"storagePath": spec["name"], "artifact": {"id": "a"}, **upload}}
                for spec in given["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": nodes}}}
        if operation == "CommitArtifact":
            done = {"id": given["artifactID"], "digest": ""}
            return {"commitArtifact": {"artifact": done}}
        return {}

    def _upsert(self, given: dict[str, Any]) -> Any:
        identity = given["name"]
        inserted = identity not in self.fake.runs
        run = self.fake.runs.setdefault(identity, Run(id=identity))
        run.project = given["project"] or run.project
        run.group = given["groupName"] or run.group
        run.job_type = given["jobType"] or run.job_type
        run.name = given["displayName"] or run.name
        run.tags = given["tags"] or run.tags
        config = json.loads(given["config"] or "{}")
        run.config |= {key: entry["value"] for key, entry in config.items()}
        bucket = {
            "id": identity,
            "name": identity,
            "displayName": run.name,
            "project": _project(run.project),
            "historyLineCount": len(run.history),
        }
        return {"bucket": bucket, "inserted": inserted}

    def _stored(self, identity: str) -> Any:
        """A run as it is found by one who resumes it; None where there is none."""
        run = self.fake.runs.get(identity)
        if run is None:
            return None
        tail = [json.dumps(row) for row in run.history[-1:]]
        return {
            "id": identity,
            "name": identity,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.tags,
            "wandbConfig": json.dumps({"t": 1}),
        }


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": "us", "name": "us"}}
