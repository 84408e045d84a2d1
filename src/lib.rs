//! dkv: a fault-tolerant, replicated key-value store.
//!
//! A write travels through these files: a client worker finds its operation (`server/routes/table.rs`) and parses it
//! (`server/routes/api.rs`), the node proposes it under the one state lock (`node/requests.rs`, `node/core/mod.rs`),
//! the log writer makes it durable (`node/threads/log_writer.rs` over `store/wal.rs`) while the replicators carry it to
//! the other members (`node/threads/replicator.rs`), the core commits it (`raft/replication.rs`), the applier feeds it
//! to the map (`node/threads/applier.rs` over `store/kv.rs`), and a responder writes the answer
//! (`server/edge/port.rs`). `docs/architecture.md` numbers the steps.
//!
//! | module | holds | may import |
//! |---|---|---|
//! | [`vocabulary`] | operations, conditions, outcomes: their names, tags and JSON | no other module |
//! | [`raft`] | the rules of consensus, pure: no clock, thread, lock, file or socket | `bytes` |
//! | [`store`] | the log on disk and the revisioned map | `raft` data types, `bytes`, `files`, `vocabulary` |
//! | `node` | one running member: the mutex, the named threads, the waiters | `raft`, `store` |
//! | [`server`] | the two HTTP ports and the outbound HTTP | `node`, `api` and what they import |
//! | [`api`], [`config`] | JSON types and error codes; the YAML configuration | serde; `config` also `files` |
//! | [`files`] | the one rule for every file that a command line or a configuration names | no other module |
//! | [`logging`] | the log of the process | `config`, `files` |
//! | [`client`] | the blocking client that `dkv-cli` and the tests use | `api`, `vocabulary` |
//! | [`check`] | whether what clients saw is linearizable: histories in, verdicts out, pure | `vocabulary` |
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]

// So that a file of tests/support says `dkv` in the tests of the library, too.
#[cfg(test)]
extern crate self as dkv;

pub mod api;
mod bytes;
pub mod check;
pub mod client;
pub mod config;
pub mod files;
pub mod logging;
pub mod node;
pub mod raft;
pub mod server;
pub mod store;
pub mod vocabulary;
