//! Quotes answers in errors, shortened and harmless for a terminal.

use crate::console::visible_start;
use std::iter::once;

/// The longest quote of a text that the server chose, in characters.
const MAX_QUOTE: usize = 300;
/// The longest quote of a page, in characters.
const MAX_WORDS: usize = 80;

/// Returns the start of a text that the server chose, on one line.
pub(super) fn quote(text: &str) -> String {
    visible_start(text.trim(), MAX_QUOTE)
}

/// Returns the title of a page, or its first words.
pub(super) fn few_words(page: &str) -> String {
    let text = title(page).unwrap_or(page);
    let (start, tags) = text.split_once('<').unwrap_or((text, ""));
    let between = tags.split('<').filter_map(|tag| Some(tag.split_once('>')?.1));
    let words: Vec<_> = once(start).chain(between).flat_map(str::split_whitespace).take(MAX_WORDS).collect();
    visible_start(&words.join(" "), MAX_WORDS)
}

/// Returns the text of the `title` element.
fn title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let start = tag + lower[tag..].find('>')? + 1;
    let end = lower[start..].find("</title").map_or(page.len(), |length| start + length);
    Some(&page[start..end]).filter(|title| !title.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_quoted_by_its_title_or_its_first_words() {
        let rows = [
            ("", ""),
            ("plain\n words", "plain words"),
            ("<html><head><TITLE>404 Not\nFound</TITLE></head><body>nginx</body></html>", "404 Not Found"),
            ("<html><head><title> </title></head><body><h1>Bad</h1><p>gateway</p></body>", "Bad gateway"),
            ("<title lang=en>Sign in</title>", "Sign in"),
            ("<title>cut", "cut"),
            ("<title", ""),
            ("a < b", "a"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ];
        for (page, words) in rows {
            assert_eq!(few_words(page), words, "{page}");
        }
        assert_eq!(few_words(&"word ".repeat(1000)).chars().count(), MAX_WORDS + 1);
    }
}
