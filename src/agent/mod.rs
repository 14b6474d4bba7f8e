//! The agent server's protocol. Only this folder knows the names that the server uses.

pub(crate) mod calls;
pub mod events;
pub(crate) mod json;
pub mod sse;
pub(crate) mod tools;
