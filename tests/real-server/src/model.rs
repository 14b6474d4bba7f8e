//! A model that says what the test tells it to: OpenAI's chat completions, not streamed.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

use crate::eventually;

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// A scripted model, and a record of what it was asked. Clones share both.
#[derive(Clone)]
pub struct Model {
    script: Arc<Script>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Model {
    /// Gives the replies in the order in which requests come. A request too many is told so, in text.
    pub fn script(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<Reply> = replies.into_iter().collect();
        Self::answering(move |request| {
            let reply = replies.get(request.number).cloned();
            reply.unwrap_or_else(|| Reply::text("the script is over"))
        })
    }

    /// Gives the same reply for ever.
    pub fn always(reply: Reply) -> Self {
        Self::answering(move |_| reply.clone())
    }

    /// Calls the tools that the prompt names, as `id=tool` words with `/` between turns, then says
    /// `done`: `a=view b=create / c=remove` is a turn of two calls, one of one call, and a text.
    pub fn obedient() -> Self {
        Self::answering(|request| {
            let prompt = request.prompt();
            let turn = prompt.split('/').nth(request.turns_before()).unwrap_or_default();
            let calls: Vec<_> = turn.split_whitespace().filter_map(|word| word.split_once('=')).collect();
            if calls.is_empty() { Reply::text("done") } else { Reply::calls(calls) }
        })
    }

    /// Computes each reply from its request, so that many runs can share one model.
    pub fn answering(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), requests: Arc::default() }
    }

    /// What it was asked so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests have come, and hands out the last of them.
    pub fn wait_for_request(&self, count: usize) -> Request {
        eventually(&format!("request {count} to the model"), || {
            self.requests.lock().unwrap().get(count - 1).cloned()
        })
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().route("/v1/chat/completions", post(complete)).with_state(self.clone())
    }
}

async fn complete(State(model): State<Model>, Json(body): Json<Value>) -> Response {
    let reply = {
        let mut requests = model.requests.lock().unwrap();
        let request = Request { number: requests.len(), body };
        requests.push(request.clone());
        (model.script)(&request)
    };
    reply.send().await
}

/// What the server asked of the model.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counted from 0 over all the model's requests.
    pub number: usize,
    /// The chat completion request as it came.
    pub body: Value,
}

impl Request {
    /// The conversation so far.
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The last user message, whole: the server puts its context block before the prompt.
    pub fn user_text(&self) -> String {
        self.messages()
            .iter()
            .rfind(|message| message["role"] == "user")
            .map(|message| text_of(&message["content"]))
            .unwrap_or_default()
    }

    /// The prompt alone, provided that it has no empty line in it.
    pub fn prompt(&self) -> String {
        let text = self.user_text();
        let prompt = text.rsplit("\n\n").next();
        prompt.unwrap_or_default().to_owned()
    }

    /// How often the model has answered the last user message already. The server shortens what it sends: of several
    /// calls with one id it keeps the last alone, so that the count is too low where ids come again.
    pub fn turns_before(&self) -> usize {
        self.messages()
            .iter()
            .rev()
            .take_while(|message| message["role"] != "user")
            .filter(|message| message["role"] == "assistant")
            .count()
    }

    /// What became of a tool call, as the model is told.
    pub fn tool_result(&self, call: &str) -> Option<String> {
        self.messages()
            .iter()
            .rfind(|message| message["tool_call_id"] == call)
            .map(|message| text_of(&message["content"]))
    }
}

/// Content is a string, or a list of parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n\n")
        }
        _ => String::new(),
    }
}

/// One answer of the model.
#[derive(Clone)]
pub struct Reply {
    status: StatusCode,
    text: String,
    calls: Vec<Value>,
    finish_reason: &'static str,
    gate: Option<Gate>,
    delay: Duration,
}

impl Reply {
    /// Says `text`, and that is all.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            text: text.into(),
            calls: Vec::new(),
            finish_reason: "stop",
            gate: None,
            delay: Duration::ZERO,
        }
    }

    /// Says nothing at all.
    pub fn empty() -> Self {
        Self::text("")
    }

    /// Calls tools, given as `(id, tool)`, without a word. A tool's name is sent with the server's
    /// prefix, as the real ones are.
    pub fn calls<'a>(calls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::empty().and_calls(calls)
    }

    /// Calls one more tool, with these arguments.
    pub fn and_call(mut self, id: &str, tool: &str, arguments: &Value) -> Self {
        self.calls.push(call(id, tool, arguments));
        self.finish_reason = "tool_calls";
        self
    }

    /// Fails with an HTTP status.
    pub fn error(status: u16, message: &str) -> Self {
        Self { status: StatusCode::from_u16(status).expect("an HTTP status"), ..Self::text(message) }
    }

    /// Calls tools after the text.
    pub fn and_calls<'a>(mut self, calls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.calls =
            calls.into_iter().map(|(id, tool)| call(id, tool, &json!({ "path": format!("/{id}") }))).collect();
        if !self.calls.is_empty() {
            self.finish_reason = "tool_calls";
        }
        self
    }

    /// Ends where the output limit cuts it off.
    pub fn cut_short(mut self) -> Self {
        self.finish_reason = "length";
        self
    }

    /// Is held back until the gate opens.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Takes its time.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    async fn send(self) -> Response {
        if let Some(gate) = &self.gate {
            gate.passed().await;
        }
        tokio::time::sleep(self.delay).await;
        if self.status != StatusCode::OK {
            let error = json!({ "error": { "message": self.text } });
            return (self.status, Json(error)).into_response();
        }
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !self.calls.is_empty() {
            message["tool_calls"] = Value::Array(self.calls);
        }
        Json(json!({
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "stub",
            "choices": [{ "index": 0, "message": message, "finish_reason": self.finish_reason }],
            "usage": { "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 },
        }))
        .into_response()
    }
}

/// Returns a tool call in OpenAI's form, whose arguments are a JSON text.
fn call(id: &str, tool: &str, arguments: &Value) -> Value {
    let function = json!({ "name": format!("stakpak__{tool}"), "arguments": arguments.to_string() });
    json!({ "id": id, "type": "function", "function": function })
}

/// Holds replies back until the test opens it. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A gate that is shut.
    pub fn shut() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets through what waits and what comes.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Holds back what comes from now on.
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    pub(crate) async fn passed(&self) {
        // It cannot fail: the sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
