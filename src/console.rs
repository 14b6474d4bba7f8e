//! Writes stderr, and makes text from the agent and the server harmless for a terminal.

use crate::descriptor::Pipe;
use crate::watchdog::Watch;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest line on stderr, in characters.
const MAX_LINE: usize = 2200;
/// How long the watchdog waits for the main thread to finish a line. A blocked write ends half a second after the
/// deadline or signal.
const URGENT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Errors only.
    Quiet,
    /// Errors and progress.
    Progress,
}

/// stderr. Clones share it. After a failed write nothing more is written.
#[derive(Clone)]
pub struct Console(Arc<Mutex<Inner>>);

struct Inner {
    pipe: Option<Pipe>,
    level: Level,
    spoke: Instant,
    /// A status line is on the terminal, with the cursor at its beginning.
    status: bool,
    /// An unfinished line of the agent's text is on the terminal.
    mid_line: bool,
}

impl Console {
    /// Opens stderr. A blocked write ends soon after the deadline or signal of `watch`, or, without a watch, after
    /// half a second.
    pub fn new(watch: Option<Watch>) -> Self {
        let pipe = Some(Pipe::new(io::stderr(), watch));
        let spoke = Instant::now();
        Self(Arc::new(Mutex::new(Inner { pipe, level: Level::Progress, spoke, status: false, mid_line: false })))
    }

    /// From now on, a blocked write ends with this watch.
    pub fn set_watch(&self, watch: Watch) {
        self.with(|inner| inner.pipe = Some(Pipe::new(io::stderr(), Some(watch))));
    }

    pub fn set_level(&self, level: Level) {
        self.with(|inner| inner.level = level);
    }

    /// Writes a line, unless `-q` was given.
    pub fn progress(&self, line: &str) {
        self.with(|inner| {
            if inner.level == Level::Progress {
                inner.say(line);
            }
        });
    }

    /// Writes a line, even with `-q`.
    pub fn error(&self, line: &str) {
        self.with(|inner| inner.say(line));
    }

    /// Writes a line for the watchdog, even while the main thread is blocked in a write.
    pub fn urgent(&self, line: &str) {
        let began = Instant::now();
        while began.elapsed() < URGENT {
            if let Ok(mut inner) = self.0.try_lock() {
                return inner.say(line);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // If this fails, nobody reads stderr.
        let _ = Pipe::new(io::stderr(), None).write_all(spoken(line).as_bytes());
    }

    /// Returns the time since the last line.
    pub fn silence(&self) -> Duration {
        self.with(|inner| inner.spoke.elapsed())
    }

    /// Returns whether a status line is useful. In CI stderr is a log, even if it is a terminal.
    pub fn is_live(&self) -> bool {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|term| term == "dumb");
        let log = variable("CI").is_some_and(|ci| ci != "false");
        self.with(|inner| {
            inner.level == Level::Progress && inner.pipe.as_ref().is_some_and(Pipe::is_terminal) && !dumb && !log
        })
    }

    /// Replaces the status line, cut to the terminal's current width. A background job does not write it, because the
    /// terminal shows the shell's prompt.
    pub fn status(&self, line: &str) {
        self.with(|inner| {
            let Some(pipe) = &inner.pipe else { return };
            if rustix::termios::tcgetpgrp(pipe).is_ok_and(|group| group != rustix::process::getpgrp()) {
                return;
            }
            // The last column stays free, because a terminal may wrap there.
            let columns = rustix::termios::tcgetwinsize(pipe).map_or(0, |size| size.ws_col);
            let room = usize::from(if columns == 0 { 80 } else { columns }) - 1;
            let line = fitting(&visible(line), room).to_owned();
            // If a narrower window wraps the line, the cursor is still at its beginning, so that the next write clears
            // both parts.
            inner.write(format!("\r{line}\x1b[J\r").as_bytes());
            inner.status = true;
        });
    }

    pub fn clear_status(&self) {
        self.with(Inner::clear);
    }

    /// Sets whether the agent's text on the same terminal ends with an unfinished line.
    pub fn set_mid_line(&self, mid_line: bool) {
        self.with(|inner| inner.mid_line = mid_line);
    }

    pub fn is_mid_line(&self) -> bool {
        self.with(|inner| inner.mid_line)
    }

    /// Writes text as it is, such as clap's help.
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

fn spoken(line: &str) -> String {
    format!("sortie: {}\n", visible_start(line, MAX_LINE))
}

/// The log goes through this.
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

/// Returns text for one line of a terminal, with every character that [`acts`] escaped.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_visible(&mut shown, c, &[]));
    Cow::Owned(shown)
}

/// Returns the start of such a line: at most `limit` characters as shown.
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

/// Adds a character as shown: escaped if it [`acts`] on a terminal and is not `kept`.
pub fn push_visible(shown: &mut String, c: char, kept: &[char]) {
    match c {
        c if !acts(c) || kept.contains(&c) => shown.push(c),
        '\n' => shown.push_str("\\n"),
        '\t' => shown.push_str("\\t"),
        '\r' => shown.push_str("\\r"),
        c => shown.extend(c.escape_unicode()),
    }
}

/// Cuts a line to this many columns. Every character from U+1100 on counts as two columns; if it is narrow, the line is
/// only shorter.
fn fitting(line: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += if u32::from(*c) < 0x1100 { 1 } else { 2 };
        used > columns
    });
    end.map_or(line, |(end, _)| &line[..end])
}

/// Returns whether a terminal may act on the character: controls, line and paragraph separators, and characters that
/// reorder or hide text (Unicode's bidi and tag characters).
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
    fn characters_that_act_on_a_terminal_are_escaped() {
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
        let mut lines = String::new();
        "a\nb\tc\r\u{1b}".chars().for_each(|c| push_visible(&mut lines, c, &['\n', '\t']));
        assert_eq!(lines, "a\nb\tc\\r\\u{1b}");
    }
}
