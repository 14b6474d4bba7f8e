//! Hostile servers, terminals, environments and networks, through the binary. A binary of its own, since the other suite
//! needs neither certificates nor pseudo-terminals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, unused_imports, reason = "the other suite uses the rest")]
#[path = "../support/mod.rs"]
mod support;

mod pki;
mod relay;
mod trial;

mod attacks;
mod bounds;
mod files;
mod secrets;
mod strict;
mod terminals;
mod transport;
