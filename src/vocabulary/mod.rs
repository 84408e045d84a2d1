//! The terms that every part of dkv shares: what a write does ([`Op`]), the condition on its key ([`Condition`]), and
//! its result ([`Outcome`]). The name, the tag and the JSON of each are defined only here.
//!
//! This is the lowest layer: it imports no other module of dkv, and every module may import it. It defines how these
//! things are named and written. What an operation *does* is written in three places on purpose: in the state machine
//! (`store/command/`), in the plain map of the tests (`tests/support/plain_map.rs`) and in the checker (`check`). The
//! three are independent, so each one finds the mistakes of the others.

mod condition;
mod lease;
mod operation;
mod outcome;
mod outcome_error;
mod range;
mod txn;
mod txn_answer;

pub use condition::Condition;
pub use lease::{LeaseId, MAX_LEASES_PER_COMMAND, MAX_TTL_S, MIN_TTL_S, NoLeaseId, PutLease, is_ttl};
pub use operation::{Op, OpKind};
pub use outcome::Outcome;
pub use outcome_error::OutcomeError;
pub use range::KeyRange;
pub use txn::{Compare, Keys, MAX_TXN_DEPTH, MAX_TXN_ITEMS, Operator, Target, Txn, TxnError, TxnList, TxnOp};
pub use txn_answer::{Row, TxnAnswer, TxnResult};
