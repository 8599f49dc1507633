"""Commands in a running container, over the API server's WebSocket: constant memory, any bytes, the exit status known.

Frames start with a channel: 0 stdin, 1 stdout, 2 stderr, 3 the ending status (a Kubernetes Status as JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from launcher.backends.kube import api_errors
from launcher.backends.kube.client import KubeClient
from launcher.errors import ClusterError

_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
_STDOUT, _STDERR, _STATUS = 1, 2, 3
_SILENCE_S = 120.0  # the remote side says something at least every minute
_STDERR_KEPT = 4000  # bytes
NOT_FOUND = "executable file not found"  # how container runtimes say it
NO_PYTHON = "files are read and written with Python, which the image needs on its PATH as `python`"


def run_command(
    client: KubeClient, pod: str, container: str, argv: Sequence[str]
) -> Iterator[bytes]:
    """Blocks of the command's stdout as they come. No shell is involved.

    ClusterError with the end of its stderr when it fails; a transient one when the connection breaks before it has ended.
    """
    where = api_errors.Where(
        server=client.server,
        namespace=client.namespace,
        context=client.login.context,
        doing=f"run a command in pod {pod}",
    )
    query = [
        ("container", container),
        ("stdout", "true"),
        ("stderr", "true"),
        *(("command", part) for part in argv),
    ]
    socket = connect(client, f"{client.path('Pod', pod, 'exec')}?{urlencode(query)}", where)
    try:
        yield from _stdout(socket, where)
    finally:
        socket.shutdown()  # without waiting for the other side's goodbye


def _stdout(socket: Any, where: api_errors.Where) -> Iterator[bytes]:
    import websocket

    stderr = b""
    while True:
        try:
            opcode, frame = socket.recv_data()
        except (websocket.WebSocketException, OSError) as error:
            raise api_errors.unreachable(error, where, sent=True) from error
        if opcode == websocket.ABNF.OPCODE_CLOSE or not frame:
            raise api_errors.unreachable(
                ConnectionError("the server closed it before the command had ended"),
                where,
                sent=True,
            )
        channel, data = frame[0], frame[1:]
        if channel == _STDOUT:
            yield data
        elif channel == _STDERR:
            stderr = (stderr + data)[-_STDERR_KEPT:]
        elif channel == _STATUS:
            check(data, stderr, where)
            return


def check(data: bytes, stderr: bytes, where: api_errors.Where) -> None:
    """The command's end: nothing when it succeeded."""
    status = json.loads(data)
    if status.get("status") == "Success":
        return
    words = stderr.decode("utf-8", "replace").strip()
    last = words.splitlines()[-1] if words else api_errors.server_message(data)
    hint = NO_PYTHON if NOT_FOUND in last else "`vidjobs status` shows whether the pod still runs"
    raise ClusterError(f"{where}: {last}", hint=hint, status=int(status.get("code", 500)))


def connect(client: KubeClient, path: str, where: api_errors.Where) -> Any:
    """A WebSocket to a pod. ClusterError when the server refuses it or cannot be reached."""
    import websocket

    login = client.login
    url = login.host.replace("http", "ws", 1) + path
    headers = [f"{key}: {value}" for key, value in login.headers().items()]
    try:
        return websocket.create_connection(
            url, timeout=_SILENCE_S, header=headers, subprotocols=_PROTOCOLS, suppress_origin=True,
            enable_multithread=False, redirect_limit=0, **login.websocket,
        )  # fmt: skip
    except websocket.WebSocketBadStatusException as error:
        raise api_errors.refusal(error.status_code, error.resp_body or b"", where) from error
    except (websocket.WebSocketException, OSError) as error:
        raise api_errors.unreachable(error, where, sent=False) from error
