"""Stand-ins of a cloud on one machine: nodes that an autoscaler starts and ends, and an S3 that
fails now and then. Drills start both as processes of their own."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class FakeCloud(FakeMultiNodeProvider):  # type: ignore[misc, unused-ignore]
    """Ray's fake provider: a node is a raylet on this machine. One that has died is gone."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.lock:
            for name, entry in list(self._nodes.items()):
                if "node" in entry and not entry["node"].remaining_processes_alive():
                    del self._nodes[name]
        found: list[str] = super().non_terminated_nodes(tag_filters)
        return found


class Faulty:
    """A WSGI application before another: delays, and `503 Slow Down` in place of some answers."""

    def __init__(self, inner: Any, share: float, delay_s: float, seed: int = 0) -> None:
        self.inner, self.share, self.delay_s = inner, share, delay_s
        self.stream = random.Random(seed)
        self.requests = self.refused = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/drill/counts":
            start("200 OK", [("Content-Type", "text/plain")])
            return [f"{self.requests} {self.refused}".encode()]
        self.requests += 1
        time.sleep(self.stream.uniform(0, 2 * self.delay_s))
        if self.stream.random() < self.share:
            self.refused += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"]
        answer: Iterable[bytes] = self.inner(environ, start)
        return answer


def serve(port: int, share: float, delay_s: float) -> None:
    """S3 on loopback, by moto's server, with a bucket named `drill`."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Faulty(DomainDispatcherApplication(create_backend_app), 0.0, 0.0)
    server = make_server("127.0.0.1", port, application, threaded=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="drill")
    application.share, application.delay_s = share, delay_s
    print("serving", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
