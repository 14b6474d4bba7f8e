//! The server's calls: authentication, routing, idempotency, errors.

use super::run::{Decision, Phase, Policy, Run, Starting};
use super::stream;
use super::{Connection, Log, Logged, Mishap, Request, RunHandle, Script, Session, SessionState, Shared, State};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Health,
    Config,
    Sessions,
    CreateSession,
    Session,
    Send,
    Messages,
    Events,
    Pending,
    Decide,
    Cancel,
}

impl Route {
    /// The kind of a request, and the session that it names.
    pub fn of(request: &Request) -> Option<(Self, &str)> {
        let path = request.path.strip_prefix("/v1/")?;
        match (request.method.as_str(), path) {
            ("GET", "health") => return Some((Self::Health, "")),
            ("GET", "config") => return Some((Self::Config, "")),
            ("GET", "sessions") => return Some((Self::Sessions, "")),
            ("POST", "sessions") => return Some((Self::CreateSession, "")),
            _ => {}
        }
        let path = path.strip_prefix("sessions/")?;
        let (session, rest) = path.split_once('/').unwrap_or((path, ""));
        let route = match (request.method.as_str(), rest) {
            ("GET", "") => Self::Session,
            ("POST", "messages") => Self::Send,
            ("GET", "messages") => Self::Messages,
            ("GET", "events") => Self::Events,
            ("GET", "tools/pending") => Self::Pending,
            ("POST", "tools/decisions") => Self::Decide,
            ("POST", "cancel") => Self::Cancel,
            _ => return None,
        };
        Some((route, session))
    }
}

/// Serves one connection.
pub fn serve(shared: &Arc<Shared>, mut connection: Connection) {
    let refused = shared.change(|state| {
        let refused = state.down && !state.closing;
        state.refused += usize::from(refused);
        refused
    });
    if refused {
        return;
    }
    let mut used = false;
    while let Some(request) = connection.read_request() {
        let hangs_up = shared.change(|state| {
            state.connections += usize::from(!std::mem::replace(&mut used, true));
            state.hangs_up
        });
        let last =
            hangs_up || request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let Some(again) = exchange(shared, connection, &request) else { return };
        if last {
            return;
        }
        connection = again;
    }
}

/// Answers one request, and hands the connection back if it is still good.
fn exchange(shared: &Arc<Shared>, mut connection: Connection, request: &Request) -> Option<Connection> {
    let route = Route::of(request).map(|(route, _)| route);
    let (index, mishap) = shared.change(|state| {
        let mishap = route.and_then(|route| state.mishap(route));
        let settled = matches!(mishap, Some(Mishap::Answer { .. } | Mishap::LoseRequest(_)));
        state.requests.push(Logged { route, request: request.clone(), settled });
        (state.requests.len() - 1, mishap)
    });
    match &mishap {
        Some(Mishap::Answer { status, headers, body }) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return connection.respond(*status, &headers, body).then_some(connection);
        }
        Some(Mishap::LoseRequest(ending)) => {
            connection.end(*ending);
            return None;
        }
        Some(Mishap::Hold(gate)) => gate.pass(),
        Some(Mishap::LoseAnswer(_) | Mishap::HoldAnswer(_) | Mishap::AnswerAfterwards { .. }) | None => {}
    }
    let answer = shared.change(|state| {
        state.requests[index].settled = true;
        state.answer(request)
    });
    let (status, kind, body) = match answer {
        Answer::Json(status, body) => (status, "application/json", body.to_string()),
        Answer::Plain(status, body) => (status, "text/plain; charset=utf-8", body),
        Answer::Begun(body, session, index, id, script) => {
            if let Some(script) = script {
                script(&RunHandle { shared: Arc::clone(shared), session, index, id });
            }
            (200, "application/json", body.to_string())
        }
        Answer::Stream(session, after) => {
            stream::serve(shared, connection, session, after);
            return None;
        }
    };
    match mishap {
        Some(Mishap::LoseAnswer(ending)) => {
            connection.end(ending);
            return None;
        }
        Some(Mishap::HoldAnswer(gate)) => gate.pass(),
        Some(Mishap::AnswerAfterwards { status, headers, body }) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return connection.respond(status, &headers, &body).then_some(connection);
        }
        _ => {}
    }
    connection.respond(status, &[("content-type", kind)], body.as_bytes()).then_some(connection)
}

enum Answer {
    Json(u16, Value),
    Plain(u16, String),
    /// A run has begun.
    Begun(Value, Uuid, usize, Uuid, Option<Script>),
    Stream(Uuid, Option<u64>),
}

impl Answer {
    fn error(status: u16, code: &str, message: &str) -> Self {
        let request_id = format!("req_{}", Uuid::new_v4().simple());
        Self::Json(status, json!({ "error": message, "code": code, "request_id": request_id }))
    }

    fn conflict(code: &str) -> Self {
        let message = match code {
            "session_already_running" => "Session already has an active run",
            "session_not_running" => "Session has no active run",
            "run_mismatch" => "Provided run_id does not match active run",
            _ => "Idempotency key was reused with different payload",
        };
        Self::error(409, code, message)
    }
}

impl State {
    fn mishap(&mut self, route: Route) -> Option<Mishap> {
        let single = self.plans.iter().position(|plan| plan.route == route && plan.once);
        if let Some(single) = single {
            return Some(self.plans.remove(single).mishap);
        }
        self.plans.iter().find(|plan| plan.route == route).map(|plan| plan.mishap.clone())
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let Some((route, session)) = Route::of(request) else { return Answer::Plain(404, String::new()) };
        if route == Route::Health {
            return Answer::Json(200, self.health());
        }
        if let Some(token) = &self.token
            && request.header("authorization") != Some(&format!("Bearer {token}"))
        {
            return Answer::Json(401, json!({ "error": "Unauthorized", "code": "unauthorized" }));
        }
        match route {
            Route::Config => return Answer::Json(200, self.config()),
            Route::Sessions => return self.list(&request.query),
            Route::CreateSession => return self.post(request, Self::create),
            _ => {}
        }
        let Ok(session) = session.parse::<Uuid>() else {
            return Answer::Plain(400, format!("Invalid URL: Cannot parse `{session}` to a UUID"));
        };
        match route {
            Route::Session => match self.sessions.contains_key(&session) {
                true => {
                    Answer::Json(200, json!({ "session": self.session_json(session), "config": self.config() }))
                }
                false => Answer::error(404, "not_found", &format!("Session {session} not found")),
            },
            Route::Send => match self.sessions.contains_key(&session) {
                true => self.post(request, |state, body| state.send(session, body)),
                false => Answer::error(404, "not_found", &format!("Session {session} not found")),
            },
            Route::Messages => self.messages(session, &request.query),
            Route::Pending => self.pending(session),
            Route::Decide => self.post(request, |state, body| state.decide(session, body)),
            Route::Cancel => self.post(request, |state, body| state.cancel(session, body)),
            // Of a session that is not there too: trap 10.
            _ => Answer::Stream(session, request.header("last-event-id").and_then(|id| id.parse().ok())),
        }
    }

    /// The answer is stored only once the work is done.
    fn post(&mut self, request: &Request, work: impl FnOnce(&mut Self, &Value) -> Answer) -> Answer {
        if request.header("content-type").is_none_or(|of| !of.starts_with("application/json")) {
            self.complaints.push(format!("a POST that is not JSON: {request:?}"));
            return Answer::Plain(415, "Expected request with `Content-Type: application/json`".to_owned());
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            self.complaints.push(format!("a POST of broken JSON: {request:?}"));
            return Answer::Plain(400, "Failed to parse the request body as JSON".to_owned());
        };
        let Some(key) = request.header("idempotency-key") else {
            self.complaints.push(format!("a POST without an idempotency key: {request:?}"));
            return work(self, &body);
        };
        let key = format!("{}:{key}", request.path);
        if let Some((stored, status, answer)) = self.answers.get(&key) {
            return if *stored == body {
                Answer::Json(*status, answer.clone())
            } else {
                Answer::conflict("idempotency_key_reused")
            };
        }
        let answer = work(self, &body);
        let stored = match &answer {
            Answer::Json(status, answer) if *status < 300 => Some((*status, answer.clone())),
            Answer::Begun(answer, ..) => Some((200, answer.clone())),
            _ => None,
        };
        if let Some((status, answer)) = stored {
            self.answers.insert(key, (body, status, answer));
        }
        answer
    }

    fn health(&self) -> Value {
        let uptime = (self.uptime + self.up_since.elapsed()).as_secs();
        let mut health = json!({ "status": "ok", "version": self.options.version, "uptime_seconds": uptime });
        if let Some(sandbox) = &self.options.sandbox {
            health["sandbox"] = sandbox.clone();
        }
        health
    }

    /// The sessions, last changed first. `total` is the length of the page.
    fn list(&self, query: &str) -> Answer {
        let number = |name: &str| parameter(query, name).and_then(|value| value.parse::<usize>().ok());
        let searched = parameter(query, "search").unwrap_or_default().to_lowercase();
        // No session is ever deleted here.
        let none = parameter(query, "status").is_some_and(|status| status.eq_ignore_ascii_case("deleted"));
        let mut found: Vec<(&Uuid, &Session)> = self.sessions.iter().collect();
        found.retain(|(_, session)| !none && session.title.to_lowercase().contains(&searched));
        found.sort_by_key(|(_, session)| std::cmp::Reverse(session.updated));
        let page = found.iter().skip(number("offset").unwrap_or(0)).take(number("limit").unwrap_or(100));
        let page: Vec<Value> = page.map(|(id, _)| self.session_json(**id)).collect();
        Answer::Json(200, json!({ "total": page.len(), "sessions": page }))
    }

    fn config(&self) -> Value {
        json!({ "default_model": "openai/stub", "auto_approve_mode": self.options.policy.mode() })
    }

    fn session_json(&self, id: Uuid) -> Value {
        let session = &self.sessions[&id];
        let run_status = match session.state {
            SessionState::Idle => json!({ "state": "idle" }),
            SessionState::Running => {
                let run = session.runs.last();
                let starts = run.is_some_and(|run| run.phase == Phase::Starting(Starting::Actor));
                let state = if starts { "starting" } else { "running" };
                json!({ "state": state, "run_id": run.map(|run| run.id.to_string()) })
            }
            SessionState::Failed => json!({ "state": "failed" }),
        };
        json!({
            "id": id.to_string(), "title": session.title, "cwd": session.cwd, "created_at": time(session.created),
            "updated_at": time(session.updated), "run_status": run_status,
        })
    }

    fn create(&mut self, body: &Value) -> Answer {
        let Some(title) = body["title"].as_str() else { return unprocessable("missing field `title`") };
        let id = self.create_session(title, body["cwd"].as_str());
        Answer::Json(201, self.session_json(id))
    }

    pub(super) fn create_session(&mut self, title: &str, cwd: Option<&str>) -> Uuid {
        let id = Uuid::new_v4();
        self.now += 1;
        let session = Session {
            created: self.now,
            updated: self.now,
            title: title.to_owned(),
            cwd: cwd.map(str::to_owned),
            log: Log::new(self.options.events_kept),
            messages: Vec::new(),
            runs: Vec::new(),
            state: SessionState::Idle,
        };
        self.sessions.insert(id, session);
        id
    }

    fn send(&mut self, session: Uuid, body: &Value) -> Answer {
        let content = &body["message"]["content"];
        if !is_content(content) {
            return unprocessable("message: Content must be a string or array");
        }
        if body["message"]["role"] != "user" {
            return Answer::error(400, "invalid_message_role", "message.role must be 'user' for this endpoint");
        }
        if let Some(error) = limits(body) {
            return error;
        }
        if self.active_run(session).is_some() {
            return Answer::conflict("session_already_running");
        }
        let overrides = &body["overrides"];
        let policy = match &overrides["auto_approve"] {
            Value::String(mode) if mode == "none" => Policy::None,
            Value::String(mode) if mode == "all" => Policy::All,
            Value::Array(tools) => Policy::approving(tools.iter().filter_map(Value::as_str)),
            _ => self.options.policy.clone(),
        };
        let max_turns = overrides["max_turns"].as_u64().unwrap_or(64);
        let (index, id) = self.begin_run(session, content, policy, max_turns);
        Answer::Begun(json!({ "run_id": id.to_string() }), session, index, id, self.script.clone())
    }

    pub(super) fn begin_run(&mut self, id: Uuid, prompt: &Value, policy: Policy, max_turns: u64) -> (usize, Uuid) {
        let run_id = Uuid::new_v4();
        self.now += 1;
        let (now, starting) = (self.now, self.starting);
        let session = self.session(id);
        let mut messages = session.messages.clone();
        // The first message of a session gets a description of the machine.
        let prompt = if messages.is_empty() { with_environment(prompt) } else { prompt.clone() };
        messages.push(json!({ "role": "user", "content": prompt }));
        let mut run = Run::new(run_id, policy, max_turns, messages);
        if let Some(starting) = starting {
            run.phase = Phase::Starting(starting);
        } else {
            run.start();
            session.messages.clone_from(&run.messages);
        }
        session.updated = now;
        session.runs.push(run);
        session.state = SessionState::Running;
        let index = session.runs.len() - 1;
        self.started.push((id, index, run_id));
        self.publish(id);
        (index, run_id)
    }

    fn messages(&self, session: Uuid, query: &str) -> Answer {
        let Some(session) = self.sessions.get(&session) else {
            return Answer::error(404, "not_found", "No checkpoint");
        };
        let parameter = |wanted: &str| parameter(query, wanted).and_then(|value| value.parse::<usize>().ok());
        let all = &session.messages;
        let from = parameter("offset").unwrap_or(0).min(all.len());
        let to = from.saturating_add(parameter("limit").unwrap_or(100)).min(all.len());
        Answer::Json(200, json!({ "messages": all[from..to], "total": all.len() }))
    }

    fn pending(&mut self, session: Uuid) -> Answer {
        let run = self.active_run(session).filter(|run| !run.calls().is_empty());
        let (id, calls) = run.map_or((Value::Null, Vec::new()), |run| {
            (json!(run.id.to_string()), run.calls().iter().map(super::run::Call::json).collect())
        });
        Answer::Json(200, json!({ "run_id": id, "tool_calls": calls }))
    }

    /// The active run, if it is the one that the body names.
    fn named_run(&mut self, session: Uuid, body: &Value) -> Result<(&mut Run, Uuid), Answer> {
        let Some(named) = body["run_id"].as_str().and_then(|id| id.parse::<Uuid>().ok()) else {
            return Err(unprocessable("missing field `run_id`"));
        };
        match self.active_run(session) {
            None => Err(Answer::conflict("session_not_running")),
            Some(run) if run.phase == Phase::Starting(Starting::Actor) => {
                Err(Answer::conflict("session_already_running"))
            }
            Some(run) if run.id != named => Err(Answer::conflict("run_mismatch")),
            Some(run) => Ok((run, named)),
        }
    }

    fn decide(&mut self, session: Uuid, body: &Value) -> Answer {
        let Some(decisions) = body["decisions"].as_object() else {
            return unprocessable("missing field `decisions`");
        };
        let mut mapped = HashMap::new();
        for (call, decision) in decisions {
            let decision = match (decision["action"].as_str(), decision["content"].as_str()) {
                (Some("accept"), _) => Decision::Accept,
                (Some("reject"), _) => Decision::Reject,
                (Some("custom_result"), Some(content)) => Decision::Custom(content.to_owned()),
                (Some("custom_result"), None) => {
                    return Answer::error(400, "invalid_request", "custom_result requires content");
                }
                _ => return unprocessable("decisions: unknown variant"),
            };
            mapped.insert(call.clone(), decision);
        }
        match self.named_run(session, body) {
            Err(error) => error,
            // The loop has returned, though the state does not say so yet.
            Ok((run, _)) if run.is_over() => Answer::conflict("session_not_running"),
            Ok((run, id)) => {
                run.decide(mapped);
                self.publish(session);
                Answer::Json(200, json!({ "accepted": true, "run_id": id.to_string() }))
            }
        }
    }

    fn cancel(&mut self, session: Uuid, body: &Value) -> Answer {
        match self.named_run(session, body) {
            Err(error) => error,
            Ok((run, id)) => {
                if !run.is_over() {
                    run.cancel();
                }
                self.publish(session);
                Answer::Json(200, json!({ "cancelled": true, "run_id": id.to_string() }))
            }
        }
    }
}

/// What a query says of this name.
fn parameter<'a>(query: &'a str, wanted: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value).next()
}

/// A time that is later for a greater number.
fn time(number: u32) -> String {
    format!("2026-11-22T{:02}:{:02}:{:02}Z", number / 3600 % 24, number / 60 % 60, number % 60)
}

/// A text, or parts: texts and images.
fn is_content(content: &Value) -> bool {
    let is_part = |part: &Value| match part["type"].as_str() {
        Some("text") => part["text"].is_string(),
        Some("image") => part["url"].as_str().is_some_and(|url| url.starts_with("data:image/")),
        _ => false,
    };
    content.is_string() || content.as_array().is_some_and(|parts| parts.iter().all(is_part))
}

fn with_environment(prompt: &Value) -> Value {
    const ENVIRONMENT: &str = "# Environment\n\nLinux";
    match prompt {
        Value::Array(parts) => {
            let environment = json!({ "type": "text", "text": ENVIRONMENT });
            std::iter::once(environment).chain(parts.iter().cloned()).collect()
        }
        prompt => format!("{ENVIRONMENT}\n\n{}", prompt.as_str().unwrap_or_default()).into(),
    }
}

fn unprocessable(why: &str) -> Answer {
    Answer::Plain(422, format!("Failed to deserialize the JSON body into the target type: {why}"))
}

/// What the server refuses.
fn limits(body: &Value) -> Option<Answer> {
    let chars = |value: &Value| value.as_str().map_or(0, |text| text.chars().count());
    let context = body["context"].as_array().map_or(&[][..], Vec::as_slice);
    let total: usize = context.iter().map(|entry| chars(&entry["content"])).sum();
    let too_long = |entry: &&Value| chars(&entry["name"]) > 256 || chars(&entry["content"]) > 50_000;
    if context.len() > 32 || total > 500_000 || context.iter().any(|entry| too_long(&entry)) {
        return Some(Answer::error(400, "invalid_context", "context exceeds a limit"));
    }
    let overrides = &body["overrides"];
    let max_turns = &overrides["max_turns"];
    if !max_turns.is_null() && !max_turns.as_u64().is_some_and(|turns| (1..=256).contains(&turns)) {
        return Some(Answer::error(400, "invalid_overrides", "max_turns must be between 1 and 256"));
    }
    if chars(&overrides["system_prompt"]) > 32_768 {
        return Some(Answer::error(400, "invalid_overrides", "system_prompt exceeds maximum length"));
    }
    None
}
