//! A server that is played by hand, byte by byte: for everything that no real server should do.

use super::PATIENCE;
use super::http::{Connection, Ending, Listener, Request};
use super::process::Sortie;
use super::watched::Watched;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use uuid::Uuid;

/// A request, and the connection to answer it on.
pub struct Exchange {
    pub request: Request,
    pub connection: Connection,
}

impl Exchange {
    pub fn is(&self, method: &str, path_end: &str) -> bool {
        self.request.method == method && self.request.path.ends_with(path_end)
    }

    /// Answers, and closes the connection.
    pub fn respond(mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let mut headers = headers.to_vec();
        headers.push(("connection", "close"));
        self.connection.respond(status, &headers, body);
    }

    /// Answers with JSON, and closes the connection.
    pub fn json(self, status: u16, body: &Value) {
        self.respond(status, &[("content-type", "application/json")], body.to_string().as_bytes());
    }

    /// Begins an event stream.
    pub fn stream(mut self) -> Connection {
        self.connection.open_stream();
        self.connection
    }

    /// Writes these bytes and nothing else, then ends the connection.
    pub fn raw(mut self, bytes: &[u8], ending: Ending) {
        self.connection.write(bytes);
        self.connection.end(ending);
    }
}

#[derive(Default)]
struct Arrivals {
    reached: bool,
    closing: bool,
    waiting: VecDeque<Exchange>,
}

/// See the module.
pub struct Wire {
    /// The session that [`Wire::admit`] hands out.
    pub session: Uuid,
    /// The run that it hands out.
    pub run: Uuid,
    listener: Listener,
    arrivals: Arc<Watched<Arrivals>>,
}

impl Wire {
    /// A server that answers nothing by itself.
    pub fn start() -> Self {
        Self::with(|arrivals, exchange| arrivals.change(|arrivals| arrivals.waiting.push_back(exchange)))
    }

    /// A server that answers each request with this, on a thread of its own.
    pub fn serve(answer: impl Fn(Exchange) + Send + Sync + 'static) -> Self {
        Self::with(move |_, exchange| answer(exchange))
    }

    fn with(take: impl Fn(&Watched<Arrivals>, Exchange) + Send + Sync + 'static) -> Self {
        let arrivals = Arc::new(Watched::new(Arrivals::default()));
        let listener = Listener::start({
            let arrivals = Arc::clone(&arrivals);
            move |mut connection| {
                arrivals.change(|arrivals| arrivals.reached |= !arrivals.closing);
                if let Some(request) = connection.read_request() {
                    take(&arrivals, Exchange { request, connection });
                }
            }
        });
        Self { session: Uuid::new_v4(), run: Uuid::new_v4(), listener, arrivals }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// The next request that nobody has answered yet.
    #[track_caller]
    pub fn next(&self) -> Exchange {
        self.arrivals.expect("a request", |arrivals| arrivals.waiting.pop_front())
    }

    /// Answers as the agent server would until the client subscribes; that request is the test's.
    #[track_caller]
    pub fn admit(&self) -> Exchange {
        loop {
            let exchange = self.next();
            if exchange.is("GET", "/events") {
                return exchange;
            }
            answer(exchange, self.session, self.run);
        }
    }

    /// A command line for this server.
    pub fn sortie<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Sortie {
        Sortie::new(arguments)
            .env("SORTIE_SERVER", format!("http://{}", self.address()))
            .env("SORTIE_TOKEN", "token")
    }
}

/// What the agent server answers while the run goes on, but for the events.
pub fn answer(exchange: Exchange, session: Uuid, run: Uuid) {
    let (session, run) = (session.to_string(), run.to_string());
    let path = exchange.request.path.clone();
    let status = json!({ "state": "running", "run_id": run });
    let session = json!({ "id": session, "title": "", "cwd": null, "created_at": NOW, "updated_at": NOW, "run_status": status });
    let config = json!({ "default_model": null, "auto_approve_mode": "custom" });
    match (exchange.request.method.as_str(), path.rsplit('/').next().unwrap_or_default()) {
        ("POST", "sessions") => exchange.json(201, &session),
        ("POST", "messages") => exchange.json(200, &json!({ "run_id": run })),
        ("POST", "cancel") => exchange.json(200, &json!({ "cancelled": true, "run_id": run })),
        ("POST", "decisions") => exchange.json(200, &json!({ "accepted": true, "run_id": run })),
        ("GET", "config") => exchange.json(200, &config),
        ("GET", "health") => {
            exchange.json(200, &json!({ "status": "ok", "version": "0.3.88", "uptime_seconds": 86_400 }));
        }
        ("GET", "messages") => exchange.json(200, &json!({ "messages": [], "total": 0 })),
        ("GET", "pending") => exchange.json(200, &json!({ "run_id": null, "tool_calls": [] })),
        ("GET", _) => exchange.json(200, &json!({ "session": session, "config": config })),
        _ => exchange.respond(404, &[], b""),
    }
}

const NOW: &str = "2026-11-22T10:20:30Z";

impl Drop for Wire {
    fn drop(&mut self) {
        let reached = self.arrivals.change(|arrivals| {
            arrivals.closing = true;
            arrivals.waiting.clear();
            arrivals.reached
        });
        self.listener.stop();
        assert!(reached || thread::panicking(), "the server was never reached, within {PATIENCE:?} or at all");
    }
}
