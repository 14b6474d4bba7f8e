use real_server::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn session(server: &RealServer) -> String {
    let (_, body) = server.post("/v1/sessions", &json!({ "title": "a test" }));
    body["id"].as_str().unwrap().to_owned()
}
fn send_with(server: &RealServer, session: &str, body: &Value) -> (u16, Value) {
    server.post(&format!("/v1/sessions/{session}/messages"), body)
}
fn send(server: &RealServer, session: &str, prompt: &str) -> String {
    let (s, b) =
        send_with(server, session, &json!({ "message": { "role": "user", "content": prompt }, "type": "message" }));
    assert_eq!(s, 200, "{b}");
    b["run_id"].as_str().unwrap().to_owned()
}
fn raw(server: &RealServer, method: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> String {
    use std::io::{Read, Write};
    let addr = server.url();
    let addr = addr.trim_start_matches("http://");
    let mut s = std::net::TcpStream::connect(addr).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (k, v) in headers {
        head += &format!("{k}: {v}\r\n");
    }
    head += "\r\n";
    s.write_all(head.as_bytes()).unwrap();
    let w = s.write_all(body);
    let mut out = Vec::new();
    let r = s.read_to_end(&mut out);
    let text = String::from_utf8_lossy(&out).into_owned();
    let text: String = text.chars().take(1200).collect();
    format!("{text}   [write {w:?} read {r:?}]")
}
fn show(what: &str, v: (u16, Value)) {
    println!("{what}: {} {}", v.0, v.1);
}

fn main() {
    let which = std::env::args().nth(1).unwrap();
    match which.as_str() {
        "json" => jsons(),
        "limits" => limits(),
        "images" => images(),
        "pause" => pause(),
        "compact" => compact(),
        "scopes" => scopes(),
        "quiet" => quiet(),
        "ids" => {}
        _ => panic!(),
    }
}

fn jsons() {
    let gate = Gate::shut();
    let model = Model::answering({
        let gate = gate.clone();
        move |r| match r.prompt().as_str() {
            "wait" => Reply::text("late").behind(&gate),
            "fail" => Reply::error(500, "out of order"),
            _ => Reply::text("hello"),
        }
    });
    let mut server = RealServer::start(&model);
    let auth = |_: &RealServer| {
        vec![("authorization", format!("Bearer {TOKEN}")), ("content-type", "application/json".to_owned())]
    };
    show("health", server.get("/v1/health"));
    println!("health raw: {}", raw(&server, "GET", "/v1/health", &[], b""));
    show("config", server.get("/v1/config"));
    show("models", server.get("/v1/models"));
    show("no sessions", server.get("/v1/sessions"));
    let a = session(&server);
    let (s, b) = server.post("/v1/sessions", &json!({"title": "", "cwd": "/nowhere"}));
    show("create empty title", (s, b));
    let b = session(&server);
    let c = session(&server);
    send(&server, &a, "hi");
    server.wait_until_idle(&a);
    send(&server, &b, "wait");
    model.wait_for_request(2);
    show("sessions", server.get("/v1/sessions"));
    show("limit=1", server.get("/v1/sessions?limit=1"));
    show("limit=1&offset=1", server.get("/v1/sessions?limit=1&offset=1"));
    show("limit=0", server.get("/v1/sessions?limit=0"));
    show("offset=100", server.get("/v1/sessions?offset=100"));
    show("limit=x", server.get("/v1/sessions?limit=x"));
    show("status=DELETED", server.get("/v1/sessions?status=DELETED&limit=1"));
    show("status=running", server.get("/v1/sessions?status=running&limit=1"));
    show("search", server.get("/v1/sessions?search=test&limit=1"));
    show("session running", server.get(&format!("/v1/sessions/{b}")));
    show("pending none", server.get(&format!("/v1/sessions/{b}/tools/pending")));
    show("second message", send_with(&server, &b, &json!({"message": {"role": "user", "content": "x"}})));
    let u = "00000000-0000-4000-8000-000000000000";
    show("cancel mismatch", server.post(&format!("/v1/sessions/{b}/cancel"), &json!({"run_id": u})));
    show("cancel idle", server.post(&format!("/v1/sessions/{a}/cancel"), &json!({"run_id": u})));
    show(
        "decide mismatch",
        server.post(&format!("/v1/sessions/{b}/tools/decisions"), &json!({"run_id": u, "decisions": {}})),
    );
    show(
        "decide idle",
        server.post(&format!("/v1/sessions/{a}/tools/decisions"), &json!({"run_id": u, "decisions": {}})),
    );
    show(
        "decide unknown session",
        server.post(&format!("/v1/sessions/{u}/tools/decisions"), &json!({"run_id": u, "decisions": {}})),
    );
    show("unknown session", server.get(&format!("/v1/sessions/{u}")));
    show("unknown session messages", server.get(&format!("/v1/sessions/{u}/messages")));
    show("unknown session post", send_with(&server, u, &json!({"message": {"role": "user", "content": "x"}})));
    show("bad uuid", server.get("/v1/sessions/zzz"));
    show("unknown path", server.get("/v1/nonsense"));
    show("unknown path /", server.get("/"));
    println!("method: {}", raw(&server, "PUT", "/v1/config", &auth(&server), b""));
    println!("401: {}", raw(&server, "GET", "/v1/config", &[], b""));
    println!("401 wrong: {}", raw(&server, "GET", "/v1/config", &[("authorization", "Bearer x".into())], b""));
    println!("401 unknown path: {}", raw(&server, "GET", "/v1/nonsense", &[], b""));
    let m = format!("/v1/sessions/{c}/messages");
    println!("400 syntax: {}", raw(&server, "POST", &m, &auth(&server), b"{"));
    println!("415: {}", raw(&server, "POST", &m, &auth(&server)[..1], b"{}"));
    println!("422: {}", raw(&server, "POST", &m, &auth(&server), b"{}"));
    show("role", send_with(&server, &c, &json!({"message": {"role": "assistant", "content": "x"}})));
    show(
        "max_turns",
        send_with(
            &server,
            &c,
            &json!({"message": {"role": "user", "content": "x"}, "overrides": {"max_turns": 0}}),
        ),
    );
    show(
        "system prompt",
        send_with(
            &server,
            &c,
            &json!({"message": {"role": "user", "content": "x"}, "overrides": {"system_prompt": "x".repeat(32769)}}),
        ),
    );
    show(
        "context",
        send_with(
            &server,
            &c,
            &json!({"message": {"role": "user", "content": "x"}, "context": [{"name": "", "content": "x"}]}),
        ),
    );
    show(
        "context long",
        send_with(
            &server,
            &c,
            &json!({"message": {"role": "user", "content": "x"}, "context": [{"name": "a", "content": "x".repeat(50_001)}]}),
        ),
    );
    show(
        "auto_approve bad",
        send_with(
            &server,
            &c,
            &json!({"message": {"role": "user", "content": "x"}, "overrides": {"auto_approve": 3}}),
        ),
    );
    show(
        "unknown override",
        send_with(&server, &c, &json!({"message": {"role": "user", "content": "x"}, "overrides": {"what": 3}})),
    );
    show("status c", server.get(&format!("/v1/sessions/{c}")));
    // failed
    let d = session(&server);
    let run = send(&server, &d, "fail");
    let t = Instant::now();
    for e in server.events(&d, Some(0)) {
        println!("{:?} {} {}", t.elapsed(), e.name, e.data);
        if e.name == "run_error" {
            break;
        }
    }
    eventually("failed", || (server.run_status(&d)["state"] == "failed").then_some(()));
    show("failed", server.get(&format!("/v1/sessions/{d}")));
    show("failed cancel", server.post(&format!("/v1/sessions/{d}/cancel"), &json!({"run_id": run})));
    show("failed messages", server.get(&format!("/v1/sessions/{d}/messages")));
    show("failed in list", server.get("/v1/sessions?limit=2"));
    show("messages of a", server.get(&format!("/v1/sessions/{a}/messages")));
    gate.open();
    std::thread::sleep(Duration::from_millis(1500));
    show("health before restart", server.get("/v1/health"));
    server.restart();
    show("health after restart", server.get("/v1/health"));
    show("failed session after restart", server.get(&format!("/v1/sessions/{d}")));
}

fn limits() {
    let server = RealServer::start(&Model::always(Reply::text("read")));
    let s = session(&server);
    let auth = vec![("authorization", format!("Bearer {TOKEN}")), ("content-type", "application/json".to_owned())];
    for size in [2_097_152usize, 2_097_153, 3_000_000, 20_000_000] {
        let s = session(&server);
        let frame = json!({"message": {"role": "user", "content": ""}}).to_string();
        let body = json!({"message": {"role": "user", "content": "x".repeat(size - frame.len())}}).to_string();
        assert_eq!(body.len(), size);
        println!("{size}: {}", raw(&server, "POST", &format!("/v1/sessions/{s}/messages"), &auth, body.as_bytes()));
    }
    println!(
        "unauthorized 3M: {}",
        raw(&server, "POST", &format!("/v1/sessions/{s}/messages"), &auth[1..], "x".repeat(3_000_000).as_bytes())
    );
}

fn images() {
    let model = Model::always(Reply::text("seen"));
    let server = RealServer::start(&model);
    let png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    for content in [
        json!([{"type": "text", "text": "what is it?"}, {"type": "image", "url": png}]),
        json!([{"type": "image", "url": png}]),
        json!([{"type": "image", "url": png, "detail": "high"}, {"type": "text", "text": "after"}]),
        json!([{"type": "image", "url": png.replace("image/png", "image/gif")}, {"type": "text", "text": "a gif"}]),
        json!([{"type": "image", "url": png.replace("image/png", "image/webp")}, {"type": "text", "text": "a webp"}]),
        json!([{"type": "image", "url": "https://example.com/a.png"}, {"type": "text", "text": "remote"}]),
        json!([{"type": "image", "url": "data:text/plain;base64,!!!"}, {"type": "text", "text": "no image"}]),
        json!([{"type": "image_url", "image_url": {"url": png}}]),
        json!([{"type": "image", "image_url": png}]),
        json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}]),
        json!([{"type": "image", "url": png, "detail": "best"}]),
        json!([]),
        json!({"type": "text", "text": "x"}),
        json!(3),
    ] {
        let s = session(&server);
        let n = model.requests().len();
        let (status, body) = send_with(&server, &s, &json!({"message": {"role": "user", "content": content}}));
        println!("\n{content}\n  -> {status} {body}");
        if status == 200 {
            let state = eventually("end", || {
                let s = server.run_status(&s);
                (s["state"] != "running" && s["state"] != "starting").then_some(s)
            });
            println!("  state {state}");
            if let Some(r) = model.requests().get(n) {
                println!("  model: {}", r.messages().last().unwrap());
            }
            let (_, m) = server.get(&format!("/v1/sessions/{s}/messages"));
            println!("  stored: {}", m);
        }
    }
    // with context
    let s = session(&server);
    let n = model.requests().len();
    send_with(
        &server,
        &s,
        &json!({"message": {"role": "user", "content": [{"type": "text", "text": "p"}, {"type": "image", "url": png}]}, "context": [{"name": "n", "content": "c"}]}),
    );
    server.wait_until_idle(&s);
    println!("with context: {}", model.requests()[n].messages().last().unwrap());
}

fn pause() {
    let mut server = RealServer::start(&Model::obedient());
    let s = session(&server);
    send(&server, &s, "a=view b=create c=remove");
    let t = Instant::now();
    for e in server.events(&s, Some(0)) {
        println!("{:?} {} {}", t.elapsed(), e.name, e.data);
        if e.name == "tool_execution_completed" {
            break;
        }
    }
    show("pending", server.get(&format!("/v1/sessions/{s}/tools/pending")));
    for ms in [0, 500, 1000, 2000, 3000, 4000, 5000, 5500] {
        while t.elapsed() < Duration::from_millis(ms) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (_, m) = server.get(&format!("/v1/sessions/{s}/messages"));
        let roles: Vec<_> = m["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
        println!("{ms} ms: {roles:?} total {}", m["total"]);
    }
    server.restart();
    show("after restart status", server.get(&format!("/v1/sessions/{s}")));
    show("after restart pending", server.get(&format!("/v1/sessions/{s}/tools/pending")));
    show("after restart messages", server.get(&format!("/v1/sessions/{s}/messages")));
    let n = send(&server, &s, "d=view");
    for e in server.events(&s, Some(0)) {
        println!("{} {}", e.name, e.data);
        if e.name == "run_completed" {
            break;
        }
    }
    show(&format!("messages after next run {n}"), server.get(&format!("/v1/sessions/{s}/messages")));
    // whole batch asked about, killed at once
    let s = session(&server);
    send(&server, &s, "e=create");
    for e in server.events(&s, Some(0)) {
        if e.name == "waiting_for_tool_approval" {
            break;
        }
    }
    server.restart();
    show("killed at once: messages", server.get(&format!("/v1/sessions/{s}/messages")));
    // cancelled while it waits
    let s = session(&server);
    let run = send(&server, &s, "f=create");
    let mut events = server.events(&s, Some(0));
    for e in events.by_ref() {
        if e.name == "waiting_for_tool_approval" {
            break;
        }
    }
    show("cancel", server.post(&format!("/v1/sessions/{s}/cancel"), &json!({"run_id": run})));
    std::thread::sleep(Duration::from_secs(1));
    show("status", server.get(&format!("/v1/sessions/{s}")));
    show(
        "empty",
        server.post(&format!("/v1/sessions/{s}/tools/decisions"), &json!({"run_id": run, "decisions": {}})),
    );
    let t = Instant::now();
    for e in events.by_ref() {
        println!("{:?} {} {}", t.elapsed(), e.name, e.data);
        if e.name == "run_completed" {
            break;
        }
    }
    server.wait_until_idle(&s);
    show("messages after cancel", server.get(&format!("/v1/sessions/{s}/messages")));
}

fn compact() {
    for (status, text) in [
        (
            429,
            "Rate limit reached for gpt-x in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s.",
        ),
        (429, "Too many requests"),
        (400, "maximum context length exceeded"),
        (401, "Incorrect API key provided"),
        (503, "overloaded"),
    ] {
        let model = Model::always(Reply::error(status, text));
        let server = RealServer::start(&model);
        let s = session(&server);
        let run = send(&server, &s, "go");
        let mut events = server.events(&s, Some(0));
        let t = Instant::now();
        println!("== {status} {text}");
        let mut n = 0;
        for e in events.by_ref() {
            println!("{:?} {:?} {} {}", t.elapsed(), e.id, e.name, e.data["event"]);
            n += 1;
            if n >= 12 || e.name == "run_error" {
                break;
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        println!("{} model calls in {:?}; state {}", model.requests().len(), t.elapsed(), server.run_status(&s));
        let c = Instant::now();
        show("cancel", server.post(&format!("/v1/sessions/{s}/cancel"), &json!({"run_id": run})));
        if n >= 12 {
            let mut k = 0;
            for e in events.by_ref() {
                k += 1;
                if e.name == "run_completed" {
                    println!("{:?} after the cancel, id {:?}: {}", c.elapsed(), e.id, e.data);
                    break;
                }
            }
            println!("events read meanwhile {k}");
        }
        server.wait_until_idle_or_failed(&s);
        println!("state {} ; calls {}", server.run_status(&s), model.requests().len());
    }
}

trait X {
    fn wait_until_idle_or_failed(&self, s: &str);
}
impl X for RealServer {
    fn wait_until_idle_or_failed(&self, s: &str) {
        eventually("idle", || (self.run_status(s)["state"] != "running").then_some(()));
    }
}

fn scopes() {
    let tools = Tools::willing();
    let model = Model::answering(|r| {
        if r.turns_before() > 0 {
            return Reply::text("done");
        }
        let p: Value = serde_json::from_str(&r.prompt()).unwrap();
        Reply::call(p["id"].as_str().unwrap(), p["tool"].as_str().unwrap(), &p["arguments"])
    });
    let options = Options { tools: Some(tools.clone()), ..Options::default() };
    let server = RealServer::start_with(options, &model);
    let mut n = 0;
    let mut ask = |list: &[&str], tool: &str, arguments: Value| {
        n += 1;
        let s = session(&server);
        let id = format!("call{n}");
        let p = json!({"id": id, "tool": tool, "arguments": arguments}).to_string();
        let (st, b) = send_with(
            &server,
            &s,
            &json!({"message": {"role": "user", "content": p}, "overrides": {"auto_approve": list}}),
        );
        assert_eq!(st, 200, "{b}");
        let run = b["run_id"].clone();
        let mut answer = "?";
        let mut events = server.events(&s, Some(0));
        for e in events.by_ref() {
            if e.name == "waiting_for_tool_approval" {
                break;
            }
            if e.name == "run_completed" {
                answer = "no call";
                break;
            }
        }
        if answer == "?" {
            // a started event or quiet
            let t = Instant::now();
            answer = loop {
                let (_, m) = server.get(&format!("/v1/sessions/{s}"));
                let st = m["session"]["run_status"]["state"].clone();
                if st != "running" {
                    let k = tools.calls().len();
                    let _ = k;
                    break "runs";
                }
                if t.elapsed() > Duration::from_millis(400) {
                    break "asks";
                }
            };
            if answer == "asks" {
                server.post(&format!("/v1/sessions/{s}/cancel"), &json!({"run_id": run}));
                server.post(&format!("/v1/sessions/{s}/tools/decisions"), &json!({"run_id": run, "decisions": {}}));
            } else {
                let seen: Vec<_> =
                    server.events(&s, Some(0)).take_while(|e| e.name != "run_completed").map(|e| e.name).collect();
                if !seen.contains(&"tool_execution_started".to_owned()) {
                    answer = "REJECTED";
                }
            }
        }
        println!(
            "| {} | {tool} | {} | {answer} |",
            list.join(" "),
            arguments["command"]
                .as_str()
                .map(|c| c.escape_debug().to_string())
                .unwrap_or_else(|| arguments.to_string())
        );
    };
    let gs = &["view", "run_command::git::status", "run_command::ls"][..];
    if let Some(file) = std::env::args().nth(2) {
        let all: Vec<String> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for c in all {
            ask(gs, "run_command", json!({"command": c}));
        }
        return;
    }
    for c in [
        "git status",
        "git status --short",
        "git status && rm -rf x",
        "git status; rm -rf x",
        "git status | cat",
        "git status | ls",
        "git status & rm x",
        "git status &",
        "git status\nrm x",
        "git status || rm x",
        "ls $(rm x)",
        "ls `rm x`",
        "ls \"$(rm x)\"",
        "ls '$(rm x)'",
        "ls <(rm x)",
        "ls > /etc/passwd",
        "ls >> f",
        "git status > f",
        "ls < f",
        "ls 2>&1",
        "ls <<EOF\n$(rm x)\nEOF",
        "ls <<'EOF'\n$(rm x)\nEOF",
        "ls <<< \"$(rm x)\"",
        "git -C /x status",
        "git  status",
        "git 'status'",
        "git \"status\"",
        "git sta\"tus\"",
        "\"git\" status",
        "'git' status",
        "g\"\"it status",
        "\\git status",
        "/usr/bin/git status",
        "./git status",
        "env git status",
        "sudo git status",
        "command git status",
        "exec git status",
        "FOO=1 git status",
        "PATH=/tmp git status",
        "GIT_SSH_COMMAND='rm x' git status",
        "LD_PRELOAD=/tmp/x.so ls",
        "time git status",
        "! git status",
        "nohup git status",
        "eval git status",
        "(git status)",
        "{ git status; }",
        "if true; then git status; fi",
        "for f in *; do ls; done",
        "while ls; do rm x; done",
        "f() { rm x; }; ls",
        "ls() { rm x; }; ls",
        "alias ls=rm; ls",
        "sh -c 'git status'",
        "bash -c 'git status; rm x'",
        "git status # rm x",
        "# nothing",
        "",
        " ",
        "ls",
        "ls -la",
        "lsof",
        "ls;",
        "ls -la | xargs rm",
        "xargs ls",
        "git status --porcelain=v2 -z",
        "git stash",
        "git statusx",
        "git log",
        "git",
        "git -c core.fsmonitor='rm x' status",
        "git status -c core.fsmonitor=x",
        "$CMD status",
        "git $ARG",
        "git ${ARG:-status}",
        "ls $((1+1))",
        "ls \\\nrm x",
        "ls [",
        "ls \"unclosed",
        "ls 'unclosed; rm x",
        "ls ; ; rm",
        "ls | | rm x",
        "ls )( rm x",
        "ls\rrm x",
        "ls\u{0}rm x",
        "case x in x) rm x;; esac",
        "[[ -f x ]] && ls",
        "[ -f x ] && ls",
        "test -f x && ls",
        "X=1",
        "X=$(rm x)",
        "export X=1; ls",
        "declare X=1; ls",
        "unset X; ls",
        "ls |& rm x",
        "coproc rm x",
        "ls; exit 0",
        "cd /x && ls",
        "true && git status",
        "echo hi",
        "trap 'rm x' EXIT; ls",
        "source ./x; ls",
        ". ./x; ls",
        "ls --color=$(rm x)",
        "ls ~",
        "ls *",
        "ls {a,b}",
        "ls -- -x",
        "git --no-pager status",
        "git status --help",
        "git   status",
        "\tgit status",
        "git\tstatus",
    ] {
        ask(gs, "run_command", json!({"command": c}));
    }
    println!("-- other tools under that list");
    for t in ["run_command_task", "run_remote_command", "run_remote_command_task"] {
        for c in ["git status", "git status; rm x", "ls", "rm x"] {
            ask(gs, t, json!({"command": c}));
        }
    }
    ask(gs, "run_command_task", json!({"command": "ls", "remote": "u@h"}));
    ask(gs, "run_command", json!({"command": "ls", "remote": "u@h"}));
    ask(gs, "run_command", json!({"cmd": "ls"}));
    ask(gs, "run_command", json!({"command": ["ls"]}));
    ask(gs, "view", json!({"path": "/x"}));
    ask(gs, "view", json!({"path": "u@h:/x"}));
    ask(gs, "create", json!({"path": "/x"}));
    println!("-- plain run_command");
    let rc = &["run_command"][..];
    for t in ["run_command", "run_command_task", "run_remote_command", "run_remote_command_task"] {
        for c in ["ls", "rm -rf x", "$X"] {
            ask(rc, t, json!({"command": c}));
        }
    }
    ask(rc, "run_command", json!({"cmd": "ls"}));
    ask(rc, "run_command_task", json!({"cmd": "ls"}));
    println!("-- only the task tool");
    for t in ["run_command", "run_command_task", "run_remote_command"] {
        ask(&["run_command_task"], t, json!({"command": "ls"}));
    }
    for t in ["run_command", "run_command_task", "run_remote_command_task"] {
        ask(&["run_command_task::ls"], t, json!({"command": "ls"}));
    }
    println!("-- scope of more or other segments");
    for (l, c) in [
        ("run_command::git", "git push"),
        ("run_command::git", "git -C x push"),
        ("run_command::git::log::--oneline", "git log --oneline"),
        ("run_command::git::log::--oneline", "git log --oneline -5"),
        ("run_command::git::log::--oneline", "git log -5 --oneline"),
        ("run_command::git::re:^(status|log)$", "git log"),
        ("run_command::git::re:^(status|log)$", "git push"),
        ("run_command::git::re:log", "git catalog"),
        ("run_command::git::s*", "git status"),
        ("run_command::git::*", "git push"),
        ("run_command::git::*", "git"),
        ("run_command::*", "ls"),
        ("run_command::re:.*", "ls"),
        ("run_command::ls::/srv/*", "ls /srv/a/b"),
        ("run_command::ls::/srv/*", "ls /srv/../etc"),
        ("run_command::ls::/srv/*", "ls /srv/a /etc"),
        ("run_command::/usr/bin/git", "/usr/bin/git push"),
        ("run_command:: git", "git push"),
        ("run_command::git::", "git push"),
        ("run_command::git::", "git"),
        ("run_command::", "ls"),
        ("run_command::GIT", "git push"),
        ("run_command:git", "git push"),
        (" run_command::git ", "git push"),
        ("stakpak__run_command::git", "git push"),
        ("run_command::ls::a__b", "ls a__b"),
        ("run_command::my__tool", "my__tool"),
        ("run_command::my__tool", "x"),
        ("x__run_command", "rm x"),
        ("run_command::a__run_command", "rm x"),
        ("run_command::git::[", "git ["),
        ("run_command::git::re:(", "git ("),
        ("run_command::sh", "sh -c 'rm x'"),
        ("run_command::sh", "sh x"),
        ("run_command::env", "env rm x"),
        ("run_command::sudo", "sudo rm x"),
        ("run_command::xargs", "xargs rm"),
        ("run_command::find", "find . -exec rm {} ;"),
        ("run_command::find", "find . -delete"),
        ("run_command::time", "time rm x"),
        ("run_command::cat", "cat <<EOF | sh\nrm x\nEOF"),
        ("run_command::echo", "echo $(rm x)"),
        ("run_command::echo", "echo \"a $(rm x) b\""),
        ("run_command::echo", "echo `rm x`"),
        ("run_command::echo", "echo <(rm x)"),
        ("run_command::echo", "echo hi > /etc/cron.d/x"),
        ("run_command::eval", "eval 'rm x'"),
        ("run_command::awk", "awk 'BEGIN{system(\"rm x\")}'"),
        ("run_command::git", "git -c alias.x='!rm x' x"),
        ("run_command::python3", "python3 -c 'import os'"),
        ("run_command::bash", "bash <<< 'rm x'"),
        ("run_command::bash", "bash -lc 'rm x'"),
        ("run_command::bash", "bash -c 'rm x'"),
        ("run_command::env", "env bash -c 'rm x'"),
        ("run_command::bash", "env -S 'rm x'"),
        ("run_command::env", "env -S 'rm x'"),
        ("run_command::xargs", "xargs sh -c 'rm x'"),
        ("run_command::nohup", "nohup rm x"),
    ] {
        ask(&[l], "run_command", json!({"command": c}));
    }
    println!("-- other entries");
    for (l, t) in [
        ("dynamic_subagent_task", "dynamic_subagent_task"),
        ("resume_subagent_task", "resume_subagent_task"),
        ("slack_send_message", "slack_send_message"),
        ("stakpak__view", "view"),
        ("view", "view"),
        ("View", "view"),
        ("other__view", "view"),
        ("", "view"),
        ("__view", "view"),
        ("view__", "view"),
        ("a__b__view", "b__view"),
        ("a__b__view", "view"),
        ("*", "view"),
        ("view::x", "view"),
        ("vie*", "view"),
        ("all", "view"),
        ("none", "view"),
    ] {
        ask(&[l], t, json!({"path": "/x"}));
    }
    ask(&[], "view", json!({"path": "/x"}));
    println!("-- calls that ran: {}", tools.calls().len());
}

fn quiet() {
    // every order of a mixed batch: when do events come, and how long is it quiet before the asked call
    let tools = Tools::willing();
    let options = Options { tools: Some(tools.clone()), ..Options::default() };
    let server = RealServer::start_with(options, &Model::obedient());
    for batch in [
        "a=view b=create",
        "a=create b=view",
        "a=view b=create c=view",
        "a=create b=view c=create",
        "a=view b=view c=create",
        "a=create b=create c=view",
    ] {
        let s = session(&server);
        let run = send(&server, &s, batch);
        let calls: Vec<(&str, &str)> = batch.split_whitespace().map(|w| w.split_once('=').unwrap()).collect();
        let mut events = server.events(&s, Some(0));
        let t = Instant::now();
        let mut done = 0;
        let mut line = String::new();
        let mut next_ask = |done: usize| calls.get(done).filter(|c| c.1 == "create").map(|c| c.0);
        for e in events.by_ref() {
            if e.name.starts_with("tool_execution") || e.name.starts_with("waiting") || e.name == "run_completed" {
                line += &format!(
                    "{} {}@{:.1} ",
                    e.name,
                    e.data["event"].as_object().unwrap().values().next().unwrap()["tool_call_id"]
                        .as_str()
                        .unwrap_or(""),
                    t.elapsed().as_secs_f64() * 1000.0
                );
            }
            if e.name == "tool_execution_completed" {
                done += 1;
            }
            if (e.name == "tool_execution_completed" || e.name == "waiting_for_tool_approval")
                && let Some(id) = next_ask(done)
            {
                std::thread::sleep(Duration::from_millis(250));
                let a = server.post(
                    &format!("/v1/sessions/{s}/tools/decisions"),
                    &json!({"run_id": run, "decisions": {id: {"action": "accept"}}}),
                );
                line += &format!("[decide {id}@{:.1} {}] ", t.elapsed().as_secs_f64() * 1000.0, a.0);
            }
            if e.name == "run_completed" {
                break;
            }
        }
        println!("{batch}: {line}");
    }
}
