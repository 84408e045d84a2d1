//! dkv: a fault-tolerant, replicated key-value store.
//!
//! A write travels through six small files: a client worker parses it (`server/client_api.rs`), the node proposes
//! it under the one core lock (`node/mod.rs`), the log writer makes it durable (`node/log_writer.rs` over
//! `store/wal.rs`) while the replicators carry it to the other members (`node/replicator.rs`), the core commits it
//! (`raft/replication.rs`), the applier feeds it to the map (`node/applier.rs` over `store/kv.rs`), and a responder
//! writes the answer (`server/http.rs`). `docs/architecture.md` numbers the steps.
//!
//! | module | holds | may import |
//! |---|---|---|
//! | [`vocabulary`] | operations, conditions, outcomes: their names, tags and JSON | nothing of ours |
//! | [`raft`] | the rules of consensus, pure: no clock, thread, lock, file or socket | nothing of ours |
//! | [`store`] | the log on disk and the revisioned map | `raft` data types, `vocabulary` |
//! | `node` | one running member: the mutex, the named threads, the waiters | `raft`, `store` |
//! | [`server`] | the two HTTP ports and the outbound HTTP | `node`, `api` and what they import |
//! | [`api`], [`config`] | JSON types and error codes; the YAML configuration | serde only |
//! | [`logging`] | the log of the process | `config` |
//! | [`client`] | the blocking client that `dkv-cli` and the tests use | `api`, `vocabulary` |
//! | [`check`] | whether what clients saw is linearizable: histories in, verdicts out, pure | `vocabulary` |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod api;
pub mod check;
pub mod client;
pub mod config;
pub mod logging;
pub mod node;
pub mod raft;
pub mod server;
pub mod store;
pub mod vocabulary;
