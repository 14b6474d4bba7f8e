//! The agent server's protocol. Only this folder knows the names that the server uses. "Protocol trap N" in a comment of
//! any module means the list TRAPS in sortie-server(7).

pub(crate) mod calls;
pub mod events;
pub(crate) mod json;
pub mod sse;
pub(crate) mod tools;
