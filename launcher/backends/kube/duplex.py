"""A command in a pod with both its stdin and its stdout, over one WebSocket; with or without a terminal."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from launcher.backends.kube import api_errors
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.exec import check, connect

_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE = range(5)
_CLOSE = 255
_MESSAGE = 1 << 17  # bytes; the server may refuse larger ones
_STDERR_KEPT = 4000  # bytes


class Duplex:
    """One running command. A broken connection is a transient ClusterError; a command that fails is one too, with the end of its stderr."""

    def __init__(
        self,
        client: KubeClient,
        pod: str,
        container: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stderr: Callable[[bytes], None] | None = None,
    ) -> None:
        """With `stderr`, that gets what the command says there, and how it ended is in `exit_code` instead of an error."""
        self._where = api_errors.Where(
            server=client.server,
            namespace=client.namespace,
            context=client.login.context,
            doing=f"run a command in pod {pod}",
        )
        streams = {
            "stdin": "true",
            "stdout": "true",
            **({"tty": "true"} if tty else {"stderr": "true"}),
        }
        query = [("container", container), *streams.items(), *(("command", part) for part in argv)]
        self._socket = connect(
            client, f"{client.path('Pod', pod, 'exec')}?{urlencode(query)}", self._where
        )
        self._stderr = b""
        self._tell = stderr
        self.ended = False
        self.exit_code = 0

    def send(self, data: bytes) -> None:
        """To its stdin. Blocks while the other end reads nothing."""
        for start in range(0, len(data), _MESSAGE):
            self._message(bytes([_STDIN]) + data[start : start + _MESSAGE])

    def send_end(self) -> None:
        """Its stdin has ended; servers older than 1.30 cannot be told."""
        if self._socket.getsubprotocol() == "v5.channel.k8s.io":
            self._message(bytes([_CLOSE, _STDIN]))

    def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal how large ours is."""
        self._message(bytes([_RESIZE]) + json.dumps({"Width": columns, "Height": rows}).encode())

    def fileno(self) -> int:
        return int(self._socket.sock.fileno())

    def receive(self, *, wait: bool) -> bytes | None:
        """Its output; b"" when it has ended well, None when nothing has come (only without `wait`)."""
        import websocket

        while wait or self.readable():
            try:
                opcode, frame = self._socket.recv_data(control_frame=True)
            except (websocket.WebSocketException, OSError) as error:
                raise api_errors.unreachable(error, self._where, sent=True) from error
            if opcode in (websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG):
                continue
            if opcode == websocket.ABNF.OPCODE_CLOSE or not frame:
                raise api_errors.unreachable(
                    ConnectionError("the server closed it before the command had ended"),
                    self._where,
                    sent=True,
                )
            said = self._said(frame[0], frame[1:])
            if said is not None:
                return said
        return None

    def _said(self, channel: int, data: bytes) -> bytes | None:
        if channel == _STDERR and self._tell:
            self._tell(data)
        elif channel == _STDERR:
            self._stderr = (self._stderr + data)[-_STDERR_KEPT:]
        elif channel == _STATUS:
            self.ended = True
            self.exit_code = _exit_code(data)
            if self._tell is None or self.exit_code < 0:
                check(data, self._stderr, self._where)
            return b""
        return data if channel == _STDOUT and data else None

    def readable(self) -> bool:
        """True when something of the server's can be read at once."""
        pending = getattr(self._socket.sock, "pending", None)  # of TLS: decrypted already
        return bool(pending and pending()) or bool(select.select([self._socket.sock], [], [], 0)[0])

    def close(self) -> None:
        self._socket.shutdown()  # without waiting for the other side's goodbye

    def _message(self, data: bytes) -> None:
        import websocket

        try:
            self._socket.send_binary(data)
        except (websocket.WebSocketException, OSError) as error:
            raise api_errors.unreachable(error, self._where, sent=True) from error


def _exit_code(status: bytes) -> int:
    """The command's; -1 when it never ran."""
    told = json.loads(status)
    if told.get("status") == "Success":
        return 0
    causes = (told.get("details") or {}).get("causes") or []
    return next((int(one["message"]) for one in causes if one.get("reason") == "ExitCode"), -1)


def program_command(program: str, request: Any) -> list[str]:
    """The request travels as one argument of plain ASCII: no shell reads it."""
    return ["python", "-I", "-c", program, json.dumps(request)]
