//! Long streams, through and through.

use crate::measure::{Sink, command};
use crate::server::Play;
use crate::stream::{Framing, Kind, Letters, Stream};
use crate::{Bench, Client, Middle, Result, rounds_of};
use std::sync::Arc;

const HEAD: &str = "| stream | to | client | CPU | × curl | wall | × curl | peak memory |\n\
                    |---|---|---|---:|---:|---:|---:|---:|";

/// A stream of the tables, and how many megabytes of it there are.
#[derive(Clone, Copy)]
struct Long(usize, Kind, Letters, Framing);

impl Long {
    fn name(self) -> String {
        let Self(megabytes, kind, letters, framing) = self;
        format!(
            "{megabytes} MB {}{}{}",
            if letters == Letters::Ascii { "ASCII, " } else { "" },
            if kind == Kind::Mixed { "mixed" } else { "small" },
            if framing == Framing::Turn { ", large chunks" } else { "" },
        )
    }

    fn stream(self) -> Arc<Stream> {
        let Self(megabytes, kind, letters, framing) = self;
        Arc::new(Stream::new(kind, letters, framing, megabytes * 1_000_000))
    }

    fn rounds(self, short: usize) -> usize {
        if self.0 < 1000 { short } else { short.div_ceil(2) }
    }
}

/// The worst of ours.
#[derive(Default)]
struct Worst {
    text: f64,
    /// On streams whose events do not come in chunks of their own.
    merged_text: f64,
    json: f64,
    peak: f64,
    /// On the shortest stream.
    least_peak: f64,
}

impl Bench {
    pub fn drain(&mut self) -> Result<()> {
        let result_file = self.scratch.join("result.json").display().to_string();
        let text = ("`-o text`".to_owned(), self.sortie(&[]));
        let mut modes = vec![text.clone()];
        for mode in ["final", "json", "stream-json"] {
            modes.push((format!("`-o {mode}`"), self.sortie(&["-o", mode])));
        }
        modes.push(("`-o text --result-file`".into(), self.sortie(&["--result-file", &result_file])));
        modes.extend(self.others(&self.server.url, &[]));
        modes.extend(self.others(&self.server.url, &["-o", "stream-json"]));
        modes.extend(self.clients(&self.server.url));

        println!("\n#### Draining a stream\n\n{HEAD}");
        let all = |megabytes| Long(megabytes, Kind::Mixed, Letters::All, Framing::Event);
        let mut streams = vec![all(10)];
        if !self.options.quick {
            streams.push(all(100));
            if self.options.full {
                streams.push(all(1000));
            }
            streams.push(Long(100, Kind::Mixed, Letters::All, Framing::Turn));
            streams.push(Long(100, Kind::Small, Letters::All, Framing::Event));
            streams.push(Long(100, Kind::Small, Letters::All, Framing::Turn));
        }
        let mut worst = Worst::default();
        for long in streams {
            let stream = long.stream();
            self.server.play(Play::Stream(stream.clone()));
            if long.0 == 10 {
                self.check_text(&stream)?;
            }
            let every_mode = matches!(long, Long(_, Kind::Mixed, _, Framing::Event));
            let clients = if every_mode { &modes[..] } else { &modes[..1] };
            let sinks = if every_mode && long.0 < 1000 { &[Sink::Null, Sink::Pipe][..] } else { &[Sink::Null] };
            for sink in sinks {
                self.table(long, &stream, *sink, clients, &mut worst)?;
            }
        }
        self.drain_bars(&worst);
        Ok(())
    }

    fn table(&self, long: Long, stream: &Stream, sink: Sink, clients: &[Client], worst: &mut Worst) -> Result<()> {
        let name = long.name();
        let clients: Vec<_> = [self.curl()].into_iter().chain(clients.iter().cloned()).collect();
        let rows = rounds_of(&clients, sink, long.rounds(self.options.rounds), 1)?;
        let curl = Middle::of(&rows[0]);
        for ((client, words), samples) in clients.iter().zip(&rows) {
            let middle = Middle::of(samples);
            if words[0] == self.options.sortie {
                if middle.exit != 0 {
                    return Err(format!("{client} on {name}: exit {}", middle.exit).into());
                }
                worst.note(client, long, &middle, &curl);
                let short = samples.iter().any(|run| run.output != stream.text_len as u64);
                if client == "`-o text`" && sink == Sink::Pipe && short {
                    return Err(format!("{client} on {name}: not the whole text came").into());
                }
            }
            println!("| {name} | {} | {client} | {} |", sink.name(), middle.cells(&curl));
        }
        Ok(())
    }

    fn drain_bars(&mut self, worst: &Worst) {
        let Worst { text, merged_text, json, peak, least_peak } = *worst;
        let mut measured = format!("{text:.2} × at worst");
        if merged_text > 0.0 {
            measured += &format!("; {merged_text:.1} × where a proxy makes large chunks of it");
        }
        self.bar(
            "`-o text` takes at most 2.5 × curl's CPU on a stream as the server sends it",
            measured,
            text <= 2.5,
        );
        self.bar("`-o stream-json` takes at most 3.2 ×", format!("{json:.2} × at worst"), json <= 3.2);
        self.bar(
            "`-o text` stays within 6 MB of memory, however long the stream",
            format!("{peak:.1} MB at worst, {least_peak:.1} MB on the shortest"),
            peak <= 6.0 && peak <= least_peak + 0.5,
        );
    }

    /// The text is the agent's, to the byte.
    fn check_text(&self, stream: &Stream) -> Result<()> {
        let run = command(&self.sortie(&[])).output()?;
        if run.status.success() && run.stdout == stream.text().as_bytes() {
            return Ok(());
        }
        Err(format!("sortie run: {}, or not the text that was streamed", run.status).into())
    }

    /// The other clients on streams that they can read, too.
    pub fn ascii(&mut self) -> Result<()> {
        if self.options.clients.is_empty() {
            return Ok(());
        }
        println!("\n#### The same streams for all, in ASCII\n\n{HEAD}");
        let clients = self.peers("`-o text`").split_off(1);
        let sizes: &[usize] = if self.options.full { &[10, 100] } else { &[10] };
        for megabytes in sizes {
            for kind in [Kind::Mixed, Kind::Small] {
                for framing in [Framing::Event, Framing::Turn] {
                    let long = Long(*megabytes, kind, Letters::Ascii, framing);
                    let stream = long.stream();
                    self.server.play(Play::Stream(stream.clone()));
                    self.table(long, &stream, Sink::Null, &clients, &mut Worst::default())?;
                }
            }
        }
        Ok(())
    }
}

impl Worst {
    fn note(&mut self, client: &str, long: Long, ours: &Middle, curl: &Middle) {
        let share = match (client, long.3) {
            ("`-o text`", Framing::Event) => &mut self.text,
            ("`-o text`", Framing::Turn) => &mut self.merged_text,
            ("`-o stream-json`", _) => &mut self.json,
            _ => return,
        };
        *share = share.max(ours.cpu / curl.cpu);
        if client == "`-o text`" {
            self.peak = self.peak.max(ours.peak);
            if long.0 == 10 {
                self.least_peak = self.least_peak.max(ours.peak);
            }
        }
    }
}
