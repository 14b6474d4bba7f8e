//! A tool server (MCP over HTTP) on loopback that gives the results that a test chooses.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::post,
};
use futures_util::stream;
use serde_json::{Value, json};
use stakpak_mcp_client::McpClient;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::{Gate, eventually, server::listen};

type Script = dyn Fn(&str, &Value) -> (String, Option<Gate>) + Send + Sync;

/// A scripted tool server that records its calls. Clones share the script and the record.
#[derive(Clone)]
pub struct Tools {
    script: Arc<Script>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Tools {
    /// Computes each call's result from the tool's name, without the server's prefix, and its arguments. A result
    /// with a gate is held back until the gate opens.
    pub fn answering(script: impl Fn(&str, &Value) -> (String, Option<Gate>) + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), calls: Arc::default() }
    }

    /// Answers every call with `ok`.
    pub fn willing() -> Self {
        Self::answering(|_, _| ("ok".to_owned(), None))
    }

    /// Returns the calls so far, oldest first: the tool's name and its arguments.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until `count` calls have come.
    pub fn wait_for_call(&self, count: usize) {
        eventually(&format!("call {count} of a tool"), || (self.calls().len() >= count).then_some(()));
    }

    /// Starts to serve on loopback and connects the agent server's own MCP client to it.
    pub(crate) async fn connect(&self) -> Arc<McpClient> {
        let app = Router::new().route("/mcp", post(answer)).with_state(self.clone());
        let address = listen(SocketAddr::from(([127, 0, 0, 1], 0)), app).await;
        let client = stakpak_mcp_client::connect_https(&format!("http://{address}/mcp"), None, None).await;
        Arc::new(client.expect("a tool server"))
    }
}

async fn answer(State(tools): State<Tools>, Json(request): Json<Value>) -> Response {
    let id = request["id"].clone();
    let reply = move |result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result });
    match request["method"].as_str() {
        Some("initialize") => Json(reply(json!({
            "protocolVersion": request["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "stub", "version": "0" },
        })))
        .into_response(),
        Some("tools/list") => Json(reply(json!({ "tools": [] }))).into_response(),
        Some("tools/call") => {
            let name = request["params"]["name"].as_str().unwrap_or_default();
            let name = name.split_once("__").map_or(name, |(_, tool)| tool).to_owned();
            let arguments = request["params"]["arguments"].clone();
            let (text, gate) = (tools.script)(&name, &arguments);
            tools.calls.lock().unwrap().push((name, arguments));
            // The client sends nothing else before a plain answer has come, so the answer is an event stream.
            Sse::new(stream::once(async move {
                if let Some(gate) = gate {
                    gate.passed().await;
                }
                let result = json!({ "content": [{ "type": "text", "text": text }], "isError": false });
                Ok::<_, Infallible>(Event::default().data(reply(result).to_string()))
            }))
            .into_response()
        }
        // A notification (a cancel is one) gets no answer.
        _ => StatusCode::ACCEPTED.into_response(),
    }
}
