//! The manual pages: what the command line says of itself, and the hand-written parts in `man/`.

use crate::{after_help, commands, full_name, text};
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// The pages that are written by hand as a whole: name, section, and the title of that section.
const WRITTEN: [(&str, u8, &str); 2] =
    [("sortie-record", 5, "File Formats"), ("sortie-server", 7, "Miscellaneous Information")];

/// Returns the pages, by their paths.
pub fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for command in commands() {
        let name = full_name(&command).to_owned();
        pages.insert(format!("man/{name}.1"), command_page(command));
    }
    for (name, section, manual) in WRITTEN {
        pages.insert(format!("man/{name}.{section}"), written_page(name, section, manual));
    }
    pages
}

/// Returns a hand-written text; `None` where there is none.
pub fn written(name: &str) -> Option<String> {
    fs::read_to_string(folder().join(format!("{name}.txt"))).ok()
}

/// Returns the names of all hand-written texts of commands.
pub fn written_names() -> Vec<String> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let names = files.map(|file| file.strip_suffix(".txt").expect("a text").to_owned());
    names.filter(|name| name.starts_with("sortie") && !name.contains('.')).collect()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/generated/man"))
}

/// A page that groff and mandoc have nothing to say about.
fn command_page(command: Command) -> String {
    let is_root = command.has_subcommands();
    let name = full_name(&command).to_owned();
    let about = command.get_about().unwrap().to_string();
    let synopsis = synopsis(&command);
    let rest = rest(&command);
    // Of an argument's sections, ARGUMENTS shall stand alone and the others under OPTIONS. clap_mangen leaves out the
    // text of what the short help does not show.
    let heading = |argument: Arg| match (argument.is_positional(), argument.get_help_heading()) {
        (true, _) => argument.help_heading("Arguments"),
        (false, None) => argument.help_heading("Output").hide_short_help(false),
        _ => argument.hide_short_help(false),
    };
    let man = Man::new(command.mut_args(heading).subcommand_help_heading("COMMANDS"))
        .title(name.to_uppercase())
        .date(date())
        .source(concat!("sortie ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = String::from(PREAMBLE);
    page += &section(|w| man.render_title(w));
    page += LAYOUT;
    page += &section(|w| man.render_name_section(w));
    page += &section(|w| synopsis.to_writer(w));
    // Its first line is the phrase of the short help.
    page += &section(|w| man.render_description_section(w)).replacen(&about, &format!("{about}."), 1);
    page += &options(&section(|w| man.render_options_section(w)));
    if is_root {
        page += &section(|w| man.render_subcommands_section(w));
    }
    page += &section(|w| rest.to_writer(w));
    narrow(&page)
}

/// A page without a command.
fn written_page(name: &str, section_number: u8, manual: &str) -> String {
    let text = written(&format!("{name}.{section_number}")).expect("its text");
    let (about, text) = text.split_once('\n').unwrap();
    let source = concat!("sortie ", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    text::add(&mut roff, text, &|_, part| panic!("{name} includes {part}"));
    see_also(&mut roff, name);
    let mut title = Roff::new();
    title.control("TH", [&name.to_uppercase(), &section_number.to_string(), date(), source, manual]);
    let page = String::from(PREAMBLE) + &section(|w| title.to_writer(w)) + LAYOUT + &section(|w| roff.to_writer(w));

    narrow(&page)
}

/// The day of this version's release, as the changelog has it; before that, the day on which the pages were begun.
fn date() -> &'static str {
    let log = include_str!("../../CHANGELOG.md");
    let release = concat!("## [", env!("CARGO_PKG_VERSION"), "] - ");
    log.lines().find_map(|line| line.strip_prefix(release)).unwrap_or("2026-11-26")
}

/// Text in lines of at most 80 characters, as roff is written; what is not filled stays as it is.
fn narrow(page: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut filled = true;
    for line in page.lines() {
        filled = match line {
            ".nf" => false,
            ".fi" => true,
            _ => filled,
        };
        if !filled || line.starts_with('.') {
            lines.push(line.to_owned());
            continue;
        }
        let mut narrow = String::new();
        for word in line.split(' ') {
            assert!(!word.starts_with(['.', '\'']), "a request, if it begins a line: {line}");
            if !narrow.is_empty() && narrow.len() + 1 + word.len() > 80 {
                lines.push(std::mem::take(&mut narrow));
            }
            let blank = if narrow.is_empty() { "" } else { " " };
            narrow = narrow + blank + word;
        }
        lines.push(narrow);
    }
    lines.join("\n") + "\n"
}

/// roff's, once at the start of a page; each section that is rendered alone has it again.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// No hyphens but our own, and no stretched lines: the text is full of names.
const LAYOUT: &str = ".nh\n.ad l\n";

fn section(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut text = Vec::new();
    render(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.strip_prefix(PREAMBLE).expect("roff's preamble has changed").to_owned()
}

/// The usage as the help has it; `clap_mangen` would list all options there, without their values.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap();
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut line = vec![bold(name)];
    for word in usage.strip_prefix(name).unwrap().split_whitespace() {
        let placeholder = word.trim_matches(['[', ']', '<', '>']);
        let (open, close) = if word.starts_with('[') { (" [", "]") } else { (" ", "") };
        line.extend([roman(open), italic(placeholder), roman(close)]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]).text(line);
    roff
}

/// `clap_mangen`'s sections of options, as subsections of OPTIONS.
fn options(sections: &str) -> String {
    let mut lines = Vec::new();
    let mut in_options = false;
    for line in sections.lines() {
        match line.strip_prefix(".SH ") {
            Some("ARGUMENTS" | "OPTIONS") | None => lines.push(line.trim_end().to_owned()),
            Some(heading) => {
                if !std::mem::replace(&mut in_options, true) {
                    lines.push(".SH OPTIONS".into());
                }
                let (first, others) = heading.split_at(1);
                lines.push(format!(".SS {first}{}", others.to_lowercase()));
            }
        }
    }
    let text = lines.join("\n") + "\n";
    // A paragraph of an option's text is a new paragraph of the page, not a blank line; so is the list of values, which
    // stands no deeper than the text. Italics show what is to be replaced, without angle brackets.
    [
        (".br\n\n.br\n", ".IP\n"),
        ("\n\n", "\n.IP\n"),
        (".RS 14\n", ".RS 7\n"),
        ("\\fI<", "\\fI"),
        (">\\fR", "\\fR"),
        ("<\\fI", "\\fI"),
        ("\\fR>", "\\fR"),
        ("May also be specified with the ", "Also by the environment variable "),
        (" environment variable.", "."),
    ]
    .iter()
    .fold(text, |text, (from, to)| text.replace(from, to))
}

/// What stands after `clap_mangen`'s sections.
fn rest(command: &Command) -> Roff {
    let name = full_name(command);
    let text = written(name).unwrap_or_else(|| panic!("tests/generated/man/{name}.txt is missing"));
    let mut roff = Roff::new();
    text::add(&mut roff, &text, &|roff, part| match part {
        "exit status" => exit_status(roff, command),
        part => text::add(roff, &written(part).expect(part), &|_, _| ()),
    });
    see_also(&mut roff, name);
    roff
}

fn exit_status(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["EXIT STATUS"]);
    let help = after_help(command);
    for (code, meaning) in exit_codes(&help) {
        roff.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    roff.control("PP", []).text([roman("There is no other, not even for a mistake on the command line.")]);
}

fn see_also(roff: &mut Roff, own: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let commands = commands().into_iter().map(|command| (full_name(&command).to_owned(), 1));
    let written = WRITTEN.map(|(name, section, _)| (name.to_owned(), section));
    let others: Vec<_> = commands.chain(written).filter(|(name, _)| name != own).collect();
    for (place, (name, section)) in others.iter().enumerate() {
        let end = if place + 1 == others.len() { "" } else { "," };
        roff.text([bold(name), roman(format!("({section}){end}"))]);
    }
}

/// The codes of a command's help: "Exit codes:" with a line for each, or with all of them in one line and a period.
fn exit_codes(help: &str) -> Vec<(&str, &str)> {
    let (_, codes) = help.split_once("Exit codes:").expect("every command tells its exit codes");
    let codes = codes.trim();
    let codes: Vec<_> = match codes.strip_suffix('.') {
        Some(line) => line.split(", ").collect(),
        None => codes.lines().collect(),
    };
    let codes = codes.into_iter().map(|code| match code.trim().split_once(' ') {
        Some((code @ ("0" | "1" | "10"), meaning)) => (code, meaning.trim()),
        _ => panic!("{code:?} is none of our exit codes with its meaning, in\n{help}"),
    });
    codes.collect()
}
