#!/usr/bin/env python3
"""A small agent server for the suites: sessions, runs, events with replay, decisions, cancel.

The prompt tells the run what to do, step by step, with commas between the steps:

    say 20              20 lines of text, at once
    say 20 every 0.5    the same, one line every half second
    wait 6              6 s of silence
    turn                end this turn and begin the next one
    ask                 propose a tool call that somebody must approve
    fail                end with an error

After the last step the run completes. `text_of(prompt)` returns the text of such a run. The log has a line of JSON for
each request, for each run that begins and for each run that ends.
"""

import argparse
import collections
import http.server
import json
import socket
import socketserver
import threading
import time
import urllib.parse
import uuid

TOKEN = "tok-5f0c9d1e"


def line(number):
    return f"{number}: naïve ✅ 日本語, and so on to the end of the line\n"


def text_of(prompt):
    """Returns the text of all turns of a run with this prompt."""
    lines = sum(int(step.split()[1]) for step in prompt.split(", ") if step.startswith("say"))
    return "".join(line(number) for number in range(1, lines + 1))


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


class Session:
    def __init__(self, title, cwd):
        self.id = str(uuid.uuid4())
        self.title, self.cwd, self.created = title, cwd, now()
        self.frames = collections.deque(maxlen=4096)  # (id, bytes)
        self.last_id = 0
        self.messages = []
        self.state, self.run = "idle", None
        self.changed = threading.Condition()

    def publish(self, run, variant, **fields):
        name = "".join("_" + c.lower() if c.isupper() else c for c in variant).lstrip("_")
        with self.changed:
            self.last_id += 1
            event = {variant: {"run_id": run.id, **fields}}
            data = {"id": self.last_id, "session_id": self.id, "run_id": run.id, "timestamp": now(), "event": event}
            text = f"id: {self.last_id}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
            self.frames.append((self.last_id, text.encode()))
            self.changed.notify_all()

    def status(self):
        return {"state": self.state, "run_id": self.run.id} if self.state == "running" else {"state": self.state}

    def view(self):
        return {"id": self.id, "title": self.title, "cwd": self.cwd, "created_at": self.created,
                "updated_at": now(), "run_status": self.status()}


class Run:
    """The agent loop: plays the prompt's steps on a thread of its own."""

    def __init__(self, server, session, prompt):
        self.id = str(uuid.uuid4())
        self.server, self.session, self.prompt = server, session, prompt
        self.cancelled = threading.Event()
        self.pending, self.decisions, self.decided = [], {}, threading.Event()
        self.turn, self.lines, self.said = 0, 0, ""

    def emit(self, variant, **fields):
        self.session.publish(self, variant, **fields)

    def begin_turn(self):
        self.turn += 1
        self.emit("TurnStarted", turn=self.turn)

    def end_turn(self, finish):
        if self.said:
            self.emit("TextComplete", text=self.said)
            self.session.messages.append({"role": "assistant", "content": self.said})
            self.said = ""
        self.emit("UsageReport", turn=self.turn, usage=self.usage(1))
        if finish != "tool_calls":
            self.emit("TurnCompleted", turn=self.turn, finish_reason=finish)

    @staticmethod
    def usage(turns):
        return {"prompt_tokens": 11 * turns, "completion_tokens": 7 * turns, "total_tokens": 18 * turns}

    def say(self, count, every):
        for _ in range(count):
            if self.cancelled.wait(every) if every else self.cancelled.is_set():
                return
            self.lines += 1
            self.said += line(self.lines)
            self.emit("TextDelta", delta=line(self.lines))

    def ask(self):
        call = {"id": f"call_create_{self.turn}", "name": "stakpak__create",
                "arguments": {"path": "motd.txt", "file_text": "hello"}}
        self.end_turn("tool_calls")
        self.decided.clear()
        self.pending = [call]
        self.emit("ToolCallsProposed", tool_calls=[call])
        self.emit("WaitingForToolApproval", pending_tool_call_ids=[call["id"]])
        self.decided.wait()  # A cancel does not wake a waiting run (protocol trap 5).
        action = self.decisions.get(call["id"], {}).get("action")
        tool = {"tool_call_id": call["id"], "tool_name": call["name"]}
        if action == "accept":
            self.emit("ToolExecutionStarted", **tool)
            self.emit("ToolExecutionCompleted", **tool, result="written", is_error=False)
        elif action:
            self.emit("ToolRejected", **tool, reason="Tool call rejected by user")
        self.pending = []
        self.emit("TurnCompleted", turn=self.turn, finish_reason="tool_calls")
        self.begin_turn()

    def play(self):
        self.emit("RunStarted")
        self.begin_turn()
        for step in self.prompt.split(", "):
            if self.cancelled.is_set():
                break
            match step.split():
                case ["say", count]:
                    self.say(int(count), 0)
                case ["say", count, "every", seconds]:
                    self.say(int(count), float(seconds))
                case ["wait", seconds]:
                    self.cancelled.wait(float(seconds))
                case ["turn"]:
                    self.end_turn("stop")
                    self.begin_turn()
                case ["ask"]:
                    self.ask()
                case ["fail"]:
                    return self.finish("failed", "RunError", error="the model is gone", retryable=False)
                case _:
                    return self.finish("failed", "RunError", error=f"no such step: {step}", retryable=False)
        stop = "cancelled" if self.cancelled.is_set() else "completed"
        self.end_turn("cancelled" if stop == "cancelled" else "stop")
        self.finish("idle", "RunCompleted", total_turns=self.turn, total_usage=self.usage(self.turn), stop_reason=stop)

    def finish(self, state, variant, **fields):
        self.emit(variant, **fields)
        with self.session.changed:
            self.session.state = state
        self.server.note(end=self.id, how=fields.get("stop_reason", "failed"))


class Refusal(Exception):
    def __init__(self, status, code, message):
        self.status, self.body = status, {"error": message, "code": code, "request_id": str(uuid.uuid4())}


class Calls(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        server = self.server
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query))
        server.note(call=f"{self.command} {path}", after=self.headers.get("Last-Event-ID"),
                    key=self.headers.get("Idempotency-Key"), headers=dict(self.headers))
        try:
            status, answer = self.answer(path.strip("/").split("/"))
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body
        if answer is not None:
            self.send(status, answer)

    def send(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, path):
        server = self.server
        if path == ["v1", "health"]:
            return 200, {"status": "ok", "version": "0.3.88", "uptime_seconds": int(time.monotonic() - server.began)}
        if self.headers.get("Authorization") != f"Bearer {server.options.token}":
            raise Refusal(401, "unauthorized", "Unauthorized")
        if self.command == "POST" and (key := self.headers.get("Idempotency-Key")):
            return self.once(key, path)
        return self.route(path)

    def once(self, key, path):
        """Answers a repeated idempotency key with the stored answer, which exists once the first request is done."""
        with self.server.keys_lock:
            known = self.server.keys.get((self.path, key))
        if known and known[0] != self.body:
            raise Refusal(409, "idempotency_key_reused", "Idempotency key reused")
        if known:
            return known[1]
        answer = self.route(path)
        with self.server.keys_lock:
            self.server.keys[(self.path, key)] = (self.body, answer)
        return answer

    def session(self, name):
        found = self.server.sessions.get(name)
        if not found:
            raise Refusal(404, "not_found", "Session not found")
        return found

    def route(self, path):
        server, json_body = self.server, json.loads(self.body or b"{}")
        match [self.command, *path]:
            case ["GET", "v1", "config"]:
                return 200, {"default_model": "stub", "auto_approve_mode": "custom"}
            case ["POST", "v1", "sessions"]:
                session = Session(json_body["title"], json_body.get("cwd"))
                server.sessions[session.id] = session
                return 201, session.view()
            case ["GET", "v1", "sessions"]:
                return 200, self.listed()
            case ["GET", "v1", "sessions", name]:
                return 200, {"session": self.session(name).view(), "config": {}}
            case ["GET", "v1", "sessions", name, "messages"]:
                limit, offset = int(self.query.get("limit", 100)), int(self.query.get("offset", 0))
                page = self.session(name).messages[offset:][:limit]
                return 200, {"messages": page, "total": len(self.session(name).messages)}
            case ["POST", "v1", "sessions", name, "messages"]:
                return self.take(self.session(name), json_body)
            case ["GET", "v1", "sessions", name, "events"]:
                return 200, self.stream(server.sessions.get(name))
            case ["GET", "v1", "sessions", name, "tools", "pending"]:
                run = (session := server.sessions.get(name)) and session.run
                return 200, {"run_id": run.id if run else None, "tool_calls": run.pending if run else []}
            case ["POST", "v1", "sessions", name, "tools", "decisions"]:
                run = self.active(self.session(name), json_body)
                run.decisions = json_body["decisions"]
                run.decided.set()
                return 200, {"accepted": True, "run_id": run.id}
            case ["POST", "v1", "sessions", name, "cancel"]:
                run = self.active(self.session(name), json_body)
                server.note(cancel=run.id)
                run.cancelled.set()
                return 200, {"cancelled": True, "run_id": run.id}
        raise Refusal(404, "not_found", "No such call")

    def listed(self):
        limit, offset = int(self.query.get("limit", 100)), int(self.query.get("offset", 0))
        page = list(reversed(self.server.sessions.values()))[offset:][:limit]
        return {"sessions": [session.view() for session in page], "total": len(page)}

    @staticmethod
    def active(session, body):
        if session.state != "running":
            raise Refusal(409, "session_not_running", "Session is not running")
        if body.get("run_id") not in (None, session.run.id):
            raise Refusal(409, "run_mismatch", "Another run is active")
        return session.run

    def take(self, session, body):
        content = body["message"]["content"]
        prompt = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        with session.changed:
            if session.state == "running":
                raise Refusal(409, "session_already_running", "Session is already running")
            session.messages.append({"role": "user", "content": content})
            session.state, session.run = "running", Run(self.server, session, prompt)
        self.server.note(begin=session.run.id, prompt=prompt, title=session.title)
        threading.Thread(target=session.run.play, daemon=True).start()
        time.sleep(self.server.options.answer_after)
        return 200, {"run_id": session.run.id}

    def stream(self, session):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        # nginx asks with HTTP/1.0 by default. Such an answer ends with the connection.
        self.chunked = self.request_version != "HTTP/1.0"
        if self.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        after = self.headers.get("Last-Event-ID")
        cursor = int(after) if after is not None else session.last_id if session else 0
        quiet = self.server.options.keepalive
        while True:
            if session is None:  # protocol trap 10
                time.sleep(quiet)
                self.chunk(b": keepalive\n\n")
                continue
            with session.changed:
                session.changed.wait_for(lambda: session.last_id > cursor, quiet)
                frames = [frame for frame in session.frames if frame[0] > cursor]
            cursor = frames[-1][0] if frames else cursor
            self.chunk(b"".join(text for _, text in frames) or b": keepalive\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, options):
        self.options, self.began = options, time.monotonic()
        self.sessions, self.keys, self.keys_lock = {}, {}, threading.Lock()
        self.log, self.log_lock = open(options.log, "a", buffering=1), threading.Lock()
        super().__init__(("::", options.port), Calls)

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own method would look up our name.
        self.server_name, self.server_port = "agent", self.options.port

    def note(self, **what):
        with self.log_lock:
            self.log.write(json.dumps({"at": round(time.monotonic() - self.began, 3), **what}) + "\n")

    def handle_error(self, request, client_address):
        pass  # The client has closed the connection.


def main():
    parser = argparse.ArgumentParser(description="A small agent server for trials.")
    parser.add_argument("--port", type=int, default=4096)
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--log", default="/dev/null")
    parser.add_argument("--keepalive", type=float, default=15)
    parser.add_argument("--answer-after", type=float, default=0, help="answer a prompt so many seconds after taking it")
    Server(parser.parse_args()).serve_forever()


if __name__ == "__main__":
    main()
