//! One agent run, one exit code. The modules in the order in which data flows:
//!
//! command line → settings → client → frames → events → the run's machine → driver → outcome, output.
//!
//! This library exists for the binary, and for the tests, benches and fuzz targets beside it. It promises no API.

pub mod cli;
pub mod same_file;
pub mod settings;

pub mod input;

pub mod client;

pub mod agent;

pub mod run;

pub mod approver;
pub mod ending;
pub mod follow;
pub mod history;
pub mod send;
pub mod watchdog;

pub mod console;
pub mod descriptor;
pub mod outcome;
pub mod output;
pub mod recording;
pub mod result_file;

pub mod commands;
pub mod overview;
pub mod rehearsal;
