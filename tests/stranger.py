"""Something that listens on this machine and says yes to everything, as another user's server would."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from zprl import local_servers
from zprl.local_servers import LocalServer

LOGIN = "zprl:correct-horse-battery-staple-of-43-characters"


class Stranger:
    """Something else that listens and says yes to everything, as another user's server would."""

    def __init__(self, status: int = 200) -> None:
        asked = self.asked = []

        class Yes(BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"[]")

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.me = LocalServer(self.url, os.getpid(), local_servers.started(os.getpid()), LOGIN)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
