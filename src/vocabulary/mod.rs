//! The words that every part of dkv shares: what a write can do ([`Op`]), what may be asked of its key before
//! ([`Condition`]), and what became of it ([`Outcome`]), each with its name, its tag and its JSON, once.
//!
//! This is the ground floor: it imports nothing of ours, and everybody may import it. It says how these things are
//! named and written. What an operation *does* is said in three places on purpose: by the state machine
//! (`store/command/`), by the plain map of the tests (`tests/support/plain_map.rs`) and by the checker (`check`). They
//! are three opinions, and each finds the mistakes of the others.

mod condition;
mod operation;
mod outcome;
mod range;

pub use condition::Condition;
pub use operation::{Op, OpKind};
pub use outcome::{Outcome, OutcomeError};
pub use range::KeyRange;
