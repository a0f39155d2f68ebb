"""Serve a web site on loopback that answers as a test specifies and records its requests."""

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CannedResponse = tuple[int, dict[str, str], bytes]


class LoopbackSite:
    """`pages[path]` is a response, a list of responses (one per request, the last repeated) or a function of the handler."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, object] = {}
        self.requested_paths: list[str] = []
        self.headers: dict[str, list[dict[str, str]]] = defaultdict(list)
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                web.requested_paths.append(self.path)
                web.headers[self.path].append(dict(self.headers.items()))
                page = web.pages.get(self.path, (404, {}, b""))
                if callable(page):
                    page(self)
                    return
                if isinstance(page, list):
                    page = page.pop(0) if len(page) > 1 else page[0]
                status, headers, body = page
                self.send_response(status)
                for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # a client that disconnects is expected
        self.url = f"http://{host}:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def html(self, path: str, text: str = "", links: tuple[str, ...] = (), **headers: str) -> None:
        anchors = "".join(f'<a href="{link}">.</a>' for link in links)
        body = f"<html><body><p>{text or path}</p>{anchors}</body></html>".encode()
        self.pages[path] = (200, {name.replace("_", "-"): value for name, value in headers.items()}, body)

    def robots(self, text: str) -> None:
        self.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, text.encode())

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"<p>half")
    handler.close_connection = True
