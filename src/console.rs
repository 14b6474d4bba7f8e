//! Writes lines to stderr, and makes text visible: nothing that the agent or the server said may act on a terminal.

use crate::descriptor::Pipe;
use crate::watchdog::Watch;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest line of ours, in characters.
const MAX_LINE: usize = 2200;
/// How long the watchdog waits for a line of the main thread to end. A write ends half a second after a cause.
const URGENT: Duration = Duration::from_secs(1);

/// How much is written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Errors only (`-q`).
    Quiet,
    /// Errors and progress.
    Progress,
}

/// stderr. Clones share it. After a failed write nothing more is written: there is nowhere else to report it.
#[derive(Clone)]
pub struct Console(Arc<Mutex<Inner>>);

struct Inner {
    pipe: Option<Pipe>,
    level: Level,
    spoke: Instant,
    /// A status line stands on the terminal, the cursor at its beginning.
    status: bool,
    /// The agent's text stands on the same terminal, and its line is not finished.
    mid_line: bool,
}

impl Console {
    /// Creates a console. A write waits for a reader until `watch` has a cause; without a watch it waits half a second.
    pub fn new(watch: Option<Watch>) -> Self {
        let pipe = Some(Pipe::new(io::stderr(), watch));
        let spoke = Instant::now();
        Self(Arc::new(Mutex::new(Inner { pipe, level: Level::Progress, spoke, status: false, mid_line: false })))
    }

    /// Sets how much is written.
    pub fn set_level(&self, level: Level) {
        self.with(|inner| inner.level = level);
    }

    /// Writes a line about progress.
    pub fn progress(&self, line: &str) {
        self.with(|inner| {
            if inner.level == Level::Progress {
                inner.say(line);
            }
        });
    }

    /// Writes a line even with `-q`.
    pub fn error(&self, line: &str) {
        self.with(|inner| inner.say(line));
    }

    /// Writes a line even with `-q`, and even if the main thread is stuck writing another line: for the watchdog.
    pub fn urgent(&self, line: &str) {
        let began = Instant::now();
        while began.elapsed() < URGENT {
            if let Ok(mut inner) = self.0.try_lock() {
                return inner.say(line);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The main thread is stuck in a write. Try the descriptor itself, and give up if nobody reads it.
        let _ = Pipe::new(io::stderr(), None).write_all(spoken(line).as_bytes());
    }

    /// Returns the time since the last line.
    pub fn silence(&self) -> Duration {
        self.with(|inner| inner.spoke.elapsed())
    }

    /// Returns whether a status line makes sense: a person watches a terminal. In CI, stderr is a log even if it is a
    /// terminal.
    pub fn is_live(&self) -> bool {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|term| term == "dumb");
        let log = variable("CI").is_some_and(|ci| ci != "false");
        self.with(|inner| {
            inner.level == Level::Progress && inner.pipe.as_ref().is_some_and(Pipe::is_terminal) && !dumb && !log
        })
    }

    /// Puts the status line, in place of the one that stands there; cut to the terminal's width as it is now. A job
    /// in the background leaves the terminal to the shell's prompt.
    pub fn status(&self, line: &str) {
        self.with(|inner| {
            let Some(pipe) = &inner.pipe else { return };
            if rustix::termios::tcgetpgrp(pipe).is_ok_and(|group| group != rustix::process::getpgrp()) {
                return;
            }
            // The last column stays free: a terminal may break the line there.
            let columns = rustix::termios::tcgetwinsize(pipe).map_or(0, |size| size.ws_col);
            let room = usize::from(if columns == 0 { 80 } else { columns }) - 1;
            let line = fitting(&visible(line), room).to_owned();
            // Where a narrower window breaks the line in two, the cursor stays at its beginning, and the next one, or
            // its end, clears both halves.
            inner.write(format!("\r{line}\x1b[J\r").as_bytes());
            inner.status = true;
        });
    }

    /// Takes the status line away, for something else to stand there.
    pub fn clear_status(&self) {
        self.with(Inner::clear);
    }

    /// The agent's text was written to this terminal too: whether its line is unfinished.
    pub fn set_mid_line(&self, mid_line: bool) {
        self.with(|inner| inner.mid_line = mid_line);
    }

    /// Whether that line is still unfinished: a line of ours would have ended it.
    pub fn is_mid_line(&self) -> bool {
        self.with(|inner| inner.mid_line)
    }

    /// Text of our own, as it is: clap's help.
    pub fn raw(&self, text: &str) {
        self.with(|inner| inner.write(text.as_bytes()));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn say(&mut self, line: &str) {
        self.spoke = Instant::now();
        self.clear();
        if std::mem::take(&mut self.mid_line) {
            self.write(b"\n");
        }
        self.write(spoken(line).as_bytes());
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.status) {
            self.write(b"\r\x1b[J");
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(bytes).is_err()
        {
            self.pipe = None;
        }
    }
}

/// A line of ours, as it is written.
fn spoken(line: &str) -> String {
    format!("sortie: {}\n", visible_start(line, MAX_LINE))
}

/// The log's target.
impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<_> = text.split('\n').map(visible).collect();
        self.clear_status();
        self.raw(&lines.join("\n"));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Text for one line of a terminal: what would move the cursor, switch a mode or reorder what is read is shown instead.
pub fn visible(text: &str) -> Cow<'_, str> {
    show(text, &[])
}

/// The start of it, for one line of a terminal: what is shown has no more than so many characters.
pub fn visible_start(text: &str, limit: usize) -> String {
    let mut start = String::new();
    let mut room = limit;
    for c in text.chars() {
        let before = start.len();
        push_visible(&mut start, c, &[]);
        let used = start[before..].chars().count();
        if used > room {
            start.truncate(before);
            start.push('…');
            break;
        }
        room -= used;
    }
    start
}

/// The same for text of several lines, with tabs.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    show(text, &['\n', '\t'])
}

fn show<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    if !text.contains(|c| acts(c) && !kept.contains(&c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_visible(&mut shown, c, kept));
    Cow::Owned(shown)
}

fn push_visible(shown: &mut String, c: char, kept: &[char]) {
    match c {
        c if !acts(c) || kept.contains(&c) => shown.push(c),
        '\n' => shown.push_str("\\n"),
        '\t' => shown.push_str("\\t"),
        '\r' => shown.push_str("\\r"),
        c => shown.extend(c.escape_unicode()),
    }
}

/// As much of a line as fits into so many columns. Wide characters count for two; that a few of them are narrow only
/// shortens the line.
fn fitting(line: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += if u32::from(*c) < 0x1100 { 1 } else { 2 };
        used > columns
    });
    end.map_or(line, |(end, _)| &line[..end])
}

/// C0, DEL, C1, line and paragraph separators, and what reorders or hides text (Unicode's bidi and tag characters).
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_and_the_rest_is_untouched() {
        let rows = [
            ("plain naïve 日本語 ✅ 👩‍👩‍👧", "plain naïve 日本語 ✅ 👩‍👩‍👧"),
            ("a\nb\tc", "a\\nb\\tc"),
            ("\r", "\\r"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("a\u{2028}b\u{e0041}", "a\\u{2028}b\\u{e0041}"),
        ];
        for (text, shown) in rows {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_start("abc", 3), "abc");
        assert_eq!(visible_start("abcd", 3), "abc…");
        assert_eq!(visible_start("a\u{7f}\u{7f}", 12), "a\\u{7f}…", "all of an escape or nothing of it");
        assert_eq!(fitting("abc", 3), "abc");
        assert_eq!(fitting("abcd", 3), "abc");
        assert_eq!(fitting("a日本", 3), "a日");
        assert_eq!(fitting("a日本", 4), "a日");
        assert_eq!(visible_lines("a\nb\tc\r\u{1b}"), "a\nb\tc\\r\\u{1b}");
    }
}
