"""An S3-compatible server for tests, on loopback, that notes what it is asked and can refuse to answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

BUCKET = "voices"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto has no types
    def log(self, *_: object) -> None:
        """Says nothing."""


class Cloud:
    """One bucket. `asked` are the requests so far as `PUT /voices/name?query`; `refuse` may say that one is
    answered with an error, `alter` change the bytes of an answer.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuse: Callable[[str], bool] = lambda _request: False
        self.alter: Callable[[str, bytes], bytes] = lambda _request, data: data
        self._app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        keys = {"aws_access_key_id": ENVIRONMENT["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]}
        self.client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}"
        self.asked.append(request)
        if self.refuse(request):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"]

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [header for header in headers if header[0].lower() != "server"], *more)  # it would stand there twice

        return [self.alter(request, part) for part in self._app(environ, start)]

    def put(self, key: str, data: bytes) -> str:
        """Store an object; its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def names(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def unfinished(self) -> list[str]:
        """Multipart uploads that are neither complete nor aborted."""
        return [upload["Key"] for upload in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]

    def clear(self) -> None:
        self.refuse = lambda _request: False
        self.alter = lambda _request, data: data
        for key in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=key)
        self.asked.clear()


@contextmanager
def serve() -> Iterator[Cloud]:
    """A server with an empty bucket, until the block ends."""
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # whatever the machine's proxy
    with patch.dict(os.environ, direct):
        cloud = Cloud()
    thread = threading.Thread(target=cloud.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        cloud.client.create_bucket(Bucket=BUCKET)
        yield cloud
    finally:
        cloud.server.shutdown()
        thread.join()
        cloud.server.server_close()
        cloud.client.close()
        S3FileSystem.clear_instance_cache()  # it would go on asking this server
