//! What the agent server says and is told: the one folder with the protocol's words.

pub mod calls;
pub mod events;
pub mod sse;
