"""A service on loopback that answers POSTs as a test's script says: statuses, bodies, delays, counted and timed."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""A status, and a body: bytes as they are, anything else as JSON; a number of seconds to wait instead of a body."""


class JudgeServer:
    """`answer(number, body)` is asked for each request in turn; what came is in `asked`, with its headers and time."""

    def __init__(self, answer: Callable[[int, Any], Answer]) -> None:
        self.asked: list[tuple[str, dict[str, str], Any, float]] = []
        self.headers: dict[str, str] = {}
        self.together, self.most_together = 0, 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.asked.append((self.path, dict(self.headers), body, time.monotonic()))
                    number = len(server.asked)
                    server.together += 1
                    server.most_together = max(server.most_together, server.together)
                status, found = answer(number, body)
                with lock:
                    server.together -= 1
                if isinstance(found, float):
                    time.sleep(found)
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(data)), **server.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client had waited long enough

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion(*tokens: tuple[str, float]) -> dict[str, Any]:
    """An answer of OpenAI's chat protocol with the most likely first tokens and their log-probabilities."""
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in tokens]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "judge",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": tokens[0][0], "refusal": None},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}], "refusal": None},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
    }
