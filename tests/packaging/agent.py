"""agent.py DIR: as much of an agent server as `sortie ping` asks for, on ports 8000 and 8443 of loopback, and a name server
that knows every name as 127.0.0.1. DIR has agent.pem and agent.key; the file DIR/ready says that all of them listen."""

import http.server
import json
import pathlib
import socket
import ssl
import struct
import sys
import threading

folder = pathlib.Path(sys.argv[1])


class Agent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = {"default_model": "stub", "auto_approve_mode": "all"}
        if self.path == "/v1/health":
            answer = {"status": "ok", "version": "0.3.88", "uptime_seconds": 60}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(port, context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Agent)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def answer(question):
    end = question.index(0, 12) + 5
    wants_v4 = question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + b"\x81\x80" + struct.pack(">4H", 1, int(wants_v4), 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1])
    return head + question[12:end] + (record if wants_v4 else b"")


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "agent.pem", folder / "agent.key")
serve(8000)
serve(8443, context)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
(folder / "ready").touch()
while True:
    question, whom = names.recvfrom(512)
    names.sendto(answer(question), whom)
