//! The terms that every part of dkv shares: what a write does ([`Op`]), the condition on its key ([`Condition`]), and
//! its result ([`Outcome`]). The name, the tag and the JSON of each are defined only here.
//!
//! This is the lowest layer: it imports no other module of dkv, and every module may import it. It defines how these
//! things are named and written. What an operation *does* is written in three places on purpose: in the state machine
//! (`store/command/`), in the plain map of the tests (`tests/support/plain_map.rs`) and in the checker (`check`). The
//! three are independent, so each one finds the mistakes of the others.

mod condition;
mod operation;
mod outcome;
mod range;

pub use condition::Condition;
pub use operation::{Op, OpKind};
pub use outcome::{Outcome, OutcomeError};
pub use range::KeyRange;
