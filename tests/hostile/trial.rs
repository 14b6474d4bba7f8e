//! A server that is hostile in one place and behaves in all others, and a client on a short leash: it may not allocate
//! much, and its memory is looked at whenever it comes back with another request.

use crate::support::http::{Connection, Ending};
use crate::support::process::Sortie;
use crate::support::watched::Watched;
use crate::support::wire::{Exchange, Wire, answer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

/// The most memory that a client may ever have had, in kB.
const MOST: u64 = 64 * 1024;
/// A program that is not optimized is itself so much larger, in kB: `SORTIE_BIN` names the one that is shipped.
const UNOPTIMIZED: u64 = 4 * 1024;
/// The most that it can allocate, in kB: that, and a few threads' stacks. Beyond it is killed by its own allocator.
const LEASH: u64 = MOST + 16 * 1024;

/// What the server's threads share.
#[derive(Default)]
struct Watch {
    pid_file: Option<PathBuf>,
    peak: u64,
    requests: Vec<String>,
    cancelled: bool,
    /// A stream that is opened after the cancel is the test's as well.
    streams_last_look: bool,
}

/// See the module.
pub struct Trial {
    pub session: Uuid,
    pub run: Uuid,
    wire: Wire,
    watch: Arc<Watched<Watch>>,
}

impl Trial {
    /// `hostile` answers the requests that it wants, and gives back the others.
    pub fn new(hostile: impl Fn(Exchange, Uuid) -> Option<Exchange> + Send + Sync + 'static) -> Self {
        let watch = Arc::new(Watched::new(Watch::default()));
        let (session, run) = (Uuid::new_v4(), Uuid::new_v4());
        let wire = Wire::serve({
            let watch = Arc::clone(&watch);
            move |exchange| {
                let cancelled = watch.change(|watch| watch.note(&exchange));
                let after_cancel = cancelled && exchange.request.method == "GET";
                let streams_on = watch.look(|watch| watch.streams_last_look);
                if after_cancel && exchange.is("GET", "/events") && !streams_on {
                    exchange.respond(404, &[], b"");
                } else if after_cancel && exchange.is("GET", &format!("/sessions/{session}")) {
                    let status = json!({ "run_status": { "state": "idle" } });
                    exchange.json(200, &json!({ "session": status }));
                } else if let Some(exchange) = hostile(exchange, run) {
                    answer(exchange, session, run);
                }
            }
        });
        Self { session, run, wire, watch }
    }

    /// A stream that the client never sees the end of: a run's beginning, and then this again and again until the
    /// client hangs up.
    pub fn flooding(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::streaming(move |stream, _| while stream.chunk(&bytes) {})
    }

    /// A stream that begins as a run does and goes on like this; it is cut then, and completes when the client comes
    /// back for what follows the event of the given id.
    pub fn interrupted_by(play: impl Fn(&mut Connection, Uuid) + Send + Sync + 'static) -> Self {
        Self::new(move |exchange, run| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            let seen: u64 = exchange.request.header("last-event-id").unwrap().parse().unwrap();
            let mut stream = exchange.stream();
            if seen == 0 {
                stream.chunk(begun(run).as_bytes());
                play(&mut stream, run);
                stream.end(Ending::Cut);
            } else {
                stream.chunk(completed(seen + 1, run).as_bytes());
                stream.wait_for_close();
            }
            None
        })
    }

    /// Every stream begins as a run does and goes on like this.
    pub fn streaming(play: impl Fn(&mut Connection, Uuid) + Send + Sync + 'static) -> Self {
        Self::new(move |exchange, run| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            let mut stream = exchange.stream();
            stream.chunk(begun(run).as_bytes());
            play(&mut stream, run);
            stream.wait_for_close();
            None
        })
    }

    /// A run that is followed like this, then cancelled by the client, and looked at once more like that.
    pub fn with_last_look(
        play: impl Fn(&mut Connection) + Send + Sync + 'static,
        last: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let opened = AtomicUsize::new(0);
        let trial = Self::new(move |exchange, run| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            let cancelled = opened.fetch_add(1, Ordering::Relaxed) >= 2;
            let mut stream = exchange.stream();
            if cancelled {
                last(&mut stream);
            } else {
                stream.chunk(begun(run).as_bytes());
                play(&mut stream);
                stream.wait_for_close();
            }
            None
        });
        trial.watch.change(|watch| watch.streams_last_look = true);
        trial
    }

    /// A session in which nothing runs, and whose stream goes like this.
    pub fn idle(play: impl Fn(&mut Connection, Uuid) + Send + Sync + 'static) -> Self {
        Self::new(move |exchange, run| {
            if exchange.is("GET", "/events") {
                let mut stream = exchange.stream();
                play(&mut stream, run);
                stream.wait_for_close();
                return None;
            }
            if exchange.request.method == "GET" && !exchange.is("GET", "/messages") {
                exchange.json(200, &json!({ "session": { "run_status": { "state": "idle" } } }));
                return None;
            }
            Some(exchange)
        })
    }

    /// Answers requests of this kind with this.
    pub fn answering(method: &'static str, path_end: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::new(move |exchange, _| {
            if !exchange.is(method, path_end) {
                return Some(exchange);
            }
            exchange.respond(200, &[("content-type", "application/json")], &body);
            None
        })
    }

    /// A command line for this server, on the leash.
    pub fn sortie<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Sortie {
        let command = self.wire.sortie(arguments);
        self.watch.change(|watch| watch.pid_file = Some(command.path("pid")));
        command.in_shell(&format!(r#"ulimit -d {LEASH} && echo $$ >pid && exec "$@""#))
    }

    /// What was asked for so far: `METHOD PATH`.
    pub fn requests(&self) -> Vec<String> {
        self.watch.look(|watch| watch.requests.clone())
    }

    /// Asserts that the client came back, and that it never had more than [`MOST`].
    #[track_caller]
    pub fn stayed_small(&self) {
        let peak = self.watch.look(|watch| watch.peak);
        assert!(peak > 0, "it did not come back");
        let is_shipped = std::env::var_os("SORTIE_BIN").is_some();
        let most = if is_shipped || !cfg!(debug_assertions) { MOST } else { MOST + UNOPTIMIZED };
        assert!(peak <= most, "it had {peak} kB");
    }
}

impl Watch {
    /// Whether the run was cancelled before or by this.
    fn note(&mut self, exchange: &Exchange) -> bool {
        self.requests.push(format!("{} {}", exchange.request.method, exchange.request.path));
        self.peak = self.pid_file.as_deref().map_or(0, peak).max(self.peak);
        self.cancelled |= exchange.is("POST", "/cancel");
        self.cancelled
    }
}

/// The most memory that a process has had so far, in kB.
fn peak(pid_file: &Path) -> u64 {
    // A request may be read when the client has ended, and its folder is gone.
    let pid = std::fs::read_to_string(pid_file).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// An event as the server writes it, its payload as raw JSON members.
pub fn event(id: u64, run: Uuid, name: &str, variant: &str, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        "id: {id}\nevent: {name}\ndata: {{\"id\":{id},\"run_id\":\"{run}\",\"event\":{{\"{variant}\":\
         {{\"run_id\":\"{run}\"{comma}{members}}}}}}}\n\n"
    )
}

/// A run's beginning: events 1 and 2.
pub fn begun(run: Uuid) -> String {
    event(1, run, "run_started", "RunStarted", "") + &event(2, run, "turn_started", "TurnStarted", r#""turn":1"#)
}

/// A run's end.
pub fn completed(id: u64, run: Uuid) -> String {
    let members = r#""total_turns":1,"total_usage":{},"stop_reason":"completed""#;
    event(id, run, "run_completed", "RunCompleted", members)
}

/// A string as JSON writes it.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
