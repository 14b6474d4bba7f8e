//! Follows one run of an agent server and turns its end into an exit code.
//!
//! How the data flows through the modules:
//!
//! 1. [`cli`] parses the command line. [`settings`] adds the environment and checks the values. [`same_file`] checks
//!    that no file is both read and written. [`input`] reads the prompt, the token and the other files.
//! 2. [`commands`] and [`overview`] have one function for each command.
//! 3. [`send`] posts the prompt through [`client`], which makes the HTTP calls, retries them and reads the event
//!    stream.
//! 4. [`agent`] turns the bytes of the stream into frames, and the frames into events of the server's protocol.
//! 5. [`follow`] gives each event to the state machine in [`run`] and performs the effects that the machine asks for.
//!    One of them is to ask the policy program, in [`approver`].
//! 6. [`ending`] cancels a run that must not go on alone. [`history`] reads lost text from the session's messages.
//! 7. [`outcome`] makes the result record and the exit code. [`output`] knows what a format shows and writes it:
//!    through [`stdout`], through [`recording`] to the `--record` file, through [`result_file`] to the `--result-file`,
//!    and through [`progress`] and [`console`] to stderr. [`descriptor`] does the reads and writes that must not block,
//!    and [`files`] opens and creates files.
//!
//! [`rehearsal`] is the practice server of `--rehearse`.
//!
//! All of this runs on the main thread. The only other threads are these:
//!
//! - [`watchdog`] waits for signals and the deadline while the main thread blocks in a call, and ends that call.
//! - A host name is looked up on a thread of its own, because the look-up cannot be interrupted. When the deadline
//!   passes or a signal arrives, the main thread stops waiting for that thread.
//! - The practice server has threads of its own.
//!
//! This library exists for the binary and for its tests, benchmarks and fuzz targets. Its API may change at any time.

#![allow(rustdoc::private_intra_doc_links, reason = "the map names every module")]

pub mod cli;
mod same_file;
pub mod settings;

mod input;

pub mod commands;
mod overview;

pub mod client;
mod send;

pub mod agent;

mod approver;
pub mod follow;
pub mod run;

mod ending;
mod history;

pub mod console;
mod descriptor;
mod files;
pub mod outcome;
pub mod output;
mod progress;
mod recording;
mod result_file;
mod stdout;

mod rehearsal;
pub mod watchdog;
