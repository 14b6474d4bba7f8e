//! The hand-written parts of the manual pages, in a small format of their own:
//!
//! - `# HEADING` begins a section.
//! - `= TERM` is an entry. Its text is the paragraph that follows, up to an empty line.
//! - Lines between two lines of three backquotes are shown as they are.
//! - What stands between two backquotes is bold.
//! - `@NAME` on a line of its own includes a part that the caller gives.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// Adds a text to a page. `include` adds the part that a line `@NAME` names.
pub fn add(page: &mut Roff, text: &str, include: &dyn Fn(&mut Roff, &str)) {
    // A heading and an entry's term begin a paragraph by themselves.
    let mut begun = true;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        } else if let Some(heading) = line.strip_prefix("# ") {
            page.control("SH", [heading]);
            begun = true;
        } else if let Some(term) = line.strip_prefix("= ") {
            page.control("TP", []).text([bold(term)]);
            begun = true;
        } else if let Some(name) = line.strip_prefix('@') {
            include(page, name);
        } else if line == "```" {
            page.control("PP", []).control("RS", ["4"]).control("nf", []);
            for line in lines.by_ref().take_while(|line| *line != "```") {
                page.text([roman(line)]);
            }
            page.control("fi", []).control("RE", []);
            begun = false;
        } else {
            if !std::mem::replace(&mut begun, false) {
                page.control("PP", []);
            }
            let mut paragraph = line.to_owned();
            while let Some(next) = lines.next_if(|next| !next.is_empty()) {
                paragraph = paragraph + " " + next;
            }
            page.text(prose(&paragraph));
        }
    }
}

/// Returns the commands between lines of three backquotes.
pub fn examples(text: &str) -> Vec<&str> {
    text.split("```\n").skip(1).step_by(2).flat_map(str::lines).collect()
}

/// Returns the terms of the entries of one section, apart where a term names several.
pub fn terms<'a>(text: &'a str, section: &str) -> Vec<&'a str> {
    let heading = format!("# {section}");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("# "));
    lines.filter_map(|line| line.strip_prefix("= ")).flat_map(|term| term.split(", ")).collect()
}

fn prose(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(place, piece)| if place % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
}
