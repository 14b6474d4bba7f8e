//! The streams: what the agent server sends, one turn after the other, until there is enough.

/// The one session and the one run that the server plays.
pub const SESSION: &str = "1220fbc4-218c-49e8-a4db-67541337d641";
pub const RUN: &str = "d30255b1-66aa-4072-adbd-4498d9ecfed9";

/// Streams up to this size are made once and kept; larger ones are made while they are sent.
const KEPT: usize = 200_000_000;

/// What the text is cut from: with escapes, and characters of every width.
const PROSE: &str = "All 3 replicas are ready, and nothing is left to do. ✅ The roll-out took \"longer\" than planned: \
    one node had no room for the image.\n\n```sh\nkubectl get pods --selector app=api\n```\nThe naïve fix is to try \
    again; the right one is to ask why C:\\images was full. 日本語 works too. ";

/// Text deltas in a turn of each kind.
const MIXED_DELTAS: usize = 100;
const SMALL_DELTAS: usize = 3000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text deltas of 60 to 4 000 characters (three quarters of them 60: events of 340 bytes), and with each hundred
    /// of them thinking, tool, usage and unknown events and the turn's whole text.
    Mixed,
    /// Text deltas in events of 340 bytes, and little else.
    Small,
}

/// What the texts are written in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Letters {
    /// Characters of every width.
    All,
    /// For clients that take each read for whole characters.
    Ascii,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// A chunk of the transfer encoding for each event, as the agent server has it.
    Event,
    /// A chunk for each turn (100 kB to 1 MB), as a proxy may have it.
    Turn,
}

/// A whole stream.
pub struct Stream {
    kind: Kind,
    letters: Letters,
    framing: Framing,
    size: usize,
    kept: Option<Vec<Turn>>,
    /// The length of what `--output text` must make of it.
    pub text_len: usize,
}

/// A turn: its events in their chunks, and its text with a newline at the end.
pub struct Turn {
    pub wire: Vec<u8>,
    pub text: String,
}

impl Stream {
    pub fn new(kind: Kind, letters: Letters, framing: Framing, size: usize) -> Self {
        let mut stream = Self { kind, letters, framing, size, kept: None, text_len: 0 };
        if size <= KEPT {
            stream.kept = Some(stream.turns().collect());
        }
        let mut text_len = 0;
        let Ok(()) = stream.each(|turn| {
            text_len += turn.text.len();
            Ok::<_, std::convert::Infallible>(())
        });
        stream.text_len = text_len;
        stream
    }

    fn turns(&self) -> Turns {
        Turns::new(self.kind, self.letters, self.framing, self.size)
    }

    /// Hands out the turns one by one; the last one brings the run's end.
    pub fn each<E>(&self, mut take: impl FnMut(&Turn) -> Result<(), E>) -> Result<(), E> {
        match &self.kept {
            Some(turns) => turns.iter().try_for_each(take),
            None => self.turns().try_for_each(|turn| take(&turn)),
        }
    }

    /// What `--output text` must make of it.
    pub fn text(&self) -> String {
        self.kept.iter().flatten().map(|turn| turn.text.as_str()).collect()
    }
}

/// A piece of text, and the same as JSON has it between quotes.
struct Piece {
    text: String,
    json: String,
}

impl Piece {
    fn new(letters: Letters, seed: usize, chars: usize) -> Self {
        let prose = PROSE.chars().filter(|c| letters == Letters::All || c.is_ascii());
        let text: String = prose.cycle().skip(seed * 17 % PROSE.len()).take(chars).collect();
        let json = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Self { text, json }
    }
}

struct Turns {
    kind: Kind,
    pieces: Vec<Piece>,
    wire: Wire,
    size: usize,
    turn: usize,
    chance: u64,
    done: bool,
}

impl Turns {
    fn new(kind: Kind, letters: Letters, framing: Framing, size: usize) -> Self {
        let length = |n: usize| match (kind, n) {
            (Kind::Small, _) | (Kind::Mixed, 0..48) => 60,
            (Kind::Mixed, 48..60) => 80 * (n - 47),
            (Kind::Mixed, _) => 1000 * (n - 59),
        };
        let pieces = (0..64).map(|n| Piece::new(letters, n, length(n))).collect();
        Self { kind, pieces, wire: Wire::new(framing), size, turn: 0, chance: 1, done: false }
    }

    /// One of the 64, by chance, and yet the same stream each time (Knuth's MMIX generator).
    fn next_piece(&mut self) -> usize {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 58) as usize
    }
}

impl Iterator for Turns {
    type Item = Turn;

    fn next(&mut self) -> Option<Turn> {
        if self.done {
            return None;
        }
        self.turn += 1;
        let (turn, mixed) = (self.turn.to_string(), self.kind == Kind::Mixed);
        if self.turn == 1 {
            self.wire.event("run_started", "RunStarted", &[]);
        }
        self.wire.event("turn_started", "TurnStarted", &[",\"turn\":", &turn]);
        let mut text = Piece { text: String::new(), json: String::new() };
        let deltas = if mixed { MIXED_DELTAS } else { SMALL_DELTAS.min(self.size / 340 + 1) };
        for n in 0..deltas {
            let piece = self.next_piece();
            let piece = &self.pieces[piece];
            if mixed && n % 10 == 0 {
                self.wire.event("thinking_delta", "ThinkingDelta", &[",\"delta\":\"", &piece.json, "\""]);
            }
            self.wire.event("text_delta", "TextDelta", &[",\"delta\":\"", &piece.json, "\""]);
            text.text.push_str(&piece.text);
            text.json.push_str(&piece.json);
        }
        if mixed {
            self.wire.event("text_complete", "TextComplete", &[",\"text\":\"", &text.json, "\""]);
            self.wire.tool_call(&turn, &self.pieces[50].json);
            self.wire.event("budget_noted", "BudgetNoted", &[",\"left\":{\"turns\":9,\"tokens\":[1,2,3]}"]);
            let usage = ",\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18}";
            self.wire.event("usage_report", "UsageReport", &[",\"turn\":", &turn, usage]);
        }
        self.done = self.wire.len() >= self.size;
        let finish = if self.done || !mixed { "stop" } else { "tool_calls" };
        let finish = [",\"turn\":", &turn, ",\"finish_reason\":\"", finish, "\""];
        self.wire.event("turn_completed", "TurnCompleted", &finish);
        if self.done {
            let usage = ",\"total_usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18}";
            let end = [",\"total_turns\":", &turn, usage, ",\"stop_reason\":\"completed\""];
            self.wire.event("run_completed", "RunCompleted", &end);
        }
        if !text.text.ends_with('\n') {
            text.text.push('\n');
        }
        Some(Turn { wire: self.wire.take(), text: text.text })
    }
}

/// Events as bytes, numbered from 1.
pub struct Wire {
    framing: Framing,
    id: u64,
    /// Bytes taken so far.
    taken: usize,
    block: Vec<u8>,
}

impl Wire {
    pub fn new(framing: Framing) -> Self {
        Self { framing, id: 0, taken: 0, block: Vec::new() }
    }

    /// An event whose payload has these parts, beside the run's id.
    pub fn event(&mut self, name: &str, variant: &str, payload: &[&str]) {
        self.id += 1;
        let id = &self.id.to_string();
        let head = ["id: ", id, "\nevent: ", name, "\ndata: {\"id\":", id, ",\"session_id\":\"", SESSION];
        let origin = ["\",\"run_id\":\"", RUN, "\",\"timestamp\":\"2026-11-22T10:20:34.005648257Z\",\"event\":{\""];
        let body = [variant, "\":{\"run_id\":\"", RUN, "\""];
        let parts = || [&head[..], &origin, &body, payload, &["}}}\n\n"]].into_iter().flatten();
        if self.framing == Framing::Event {
            let len: usize = parts().map(|part| part.len()).sum();
            self.block.extend_from_slice(format!("{len:x}\r\n").as_bytes());
        }
        for part in parts() {
            self.block.extend_from_slice(part.as_bytes());
        }
        if self.framing == Framing::Event {
            self.block.extend_from_slice(b"\r\n");
        }
    }

    /// The events of a call that the server approves by itself.
    fn tool_call(&mut self, turn: &str, result: &str) {
        let call = &format!(",\"tool_call_id\":\"call_{turn}\",\"tool_name\":\"stakpak__view\"");
        let proposed = format!(
            ",\"tool_calls\":[{{\"id\":\"call_{turn}\",\"name\":\"stakpak__view\",\"arguments\":{{\"path\":\"/etc/motd\"}}}}]"
        );
        let waiting = format!(",\"pending_tool_call_ids\":[\"call_{turn}\"]");
        self.event("tool_calls_proposed", "ToolCallsProposed", &[&proposed]);
        self.event("waiting_for_tool_approval", "WaitingForToolApproval", &[&waiting]);
        self.event("tool_execution_started", "ToolExecutionStarted", &[call]);
        self.event("tool_execution_progress", "ToolExecutionProgress", &[call, ",\"message\":\"half of it\""]);
        let result = [call, ",\"result\":\"", result, "\",\"is_error\":false"];
        self.event("tool_execution_completed", "ToolExecutionCompleted", &result);
    }

    fn len(&self) -> usize {
        self.taken + self.block.len()
    }

    /// What has come together, with its chunk's frame.
    pub fn take(&mut self) -> Vec<u8> {
        let block = std::mem::take(&mut self.block);
        self.taken += block.len();
        match self.framing {
            Framing::Event => block,
            Framing::Turn => [format!("{:x}\r\n", block.len()).as_bytes(), &block, b"\r\n"].concat(),
        }
    }
}
