//! The integration tests: the real binary against servers that do what a test tells them. One binary, so that it links
//! once; the suites are in `suite/`, what they stand on is in `support/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "the other suites use the rest")]
mod support;

mod suite {
    mod approvals;
    mod decide;
    mod exits;
    mod files;
    mod gateways;
    mod knowledge;
    mod model;
    mod network;
    mod output;
    mod overview;
    mod ping;
    mod program;
    mod prompt;
    mod rehearse;
    mod request;
    mod resume;
    mod signals;
    mod status;
    mod stopping;
    mod stream;
    mod usage;
    mod words;
}
