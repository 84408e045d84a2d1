//! What a transaction did and read, in the words of the API.

use crate::api::{self, ListedRecord, Record, TxnReply};
use crate::vocabulary::{Row, TxnAnswer, TxnResult};

/// The answer to a transaction that was executed.
pub(super) fn answered(answer: &TxnAnswer) -> TxnReply {
    let TxnAnswer { revision, succeeded, results } = answer;
    TxnReply {
        revision: *revision,
        succeeded: *succeeded,
        results: results.iter().map(|result| shown(result, *revision)).collect(),
        truncated: false,
        puts: None,
        deleted: None,
    }
}

fn shown(result: &TxnResult, revision: u64) -> api::TxnResult {
    match result {
        TxnResult::Put { create_revision, version, prev } => api::TxnResult::Put {
            revision,
            create_revision: *create_revision,
            version: *version,
            prev: prev.as_ref().map(|prev| prev.as_ref().map(record)),
        },
        TxnResult::Delete { deleted, prev } => api::TxnResult::Delete {
            deleted: *deleted,
            prev: prev.as_ref().map(|rows| rows.iter().map(record).collect()),
        },
        TxnResult::Get(row) => api::TxnResult::Get(row.as_ref().map(record)),
        TxnResult::List { count, more, rows } => {
            api::TxnResult::List { count: *count, kvs: rows.iter().map(listed).collect(), more: *more }
        }
        TxnResult::Txn { succeeded, results } => api::TxnResult::Txn {
            succeeded: *succeeded,
            results: results.iter().map(|result| shown(result, revision)).collect(),
        },
    }
}

fn listed(row: &Row) -> ListedRecord {
    let Row { key, value, create_revision, mod_revision, version, lease } = row.clone();
    ListedRecord { key, value, create_revision, mod_revision, version, lease }
}

/// A record.
pub(super) fn record(row: &Row) -> Record {
    let ListedRecord { key, value, create_revision, mod_revision, version, lease } = listed(row);
    Record { key, value: value.unwrap_or_default(), create_revision, mod_revision, version, lease }
}
