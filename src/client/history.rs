//! The versions of a key.

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::{Client, ClientError, Kind, ReadOptions, WriteOptions, Written, get, json, key_path, with_query};
use crate::api::{CompactReply, CompactRequest, HistoryReply};

/// Which versions of a key to read. By default the newest ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Most rows of the page, 1 to 1,000; None = the server's default of 100.
    pub limit: Option<u32>,
    /// The previous page's cursor.
    pub cursor: Option<String>,
    /// Answer at once from what the asked node has; otherwise linearizable.
    pub stale: bool,
}

impl Client {
    /// Forgets the history before `revision`: from then on it is the oldest that can be read, or the newest but one if
    /// that is older. Returns the oldest.
    ///
    /// # Errors
    /// As for any write; [`ErrorCode::FutureRevision`](crate::api::ErrorCode::FutureRevision) when there is no such
    /// revision yet.
    pub fn compact(
        &self,
        revision: u64,
        options: &WriteOptions,
    ) -> Result<Written<CompactReply>, ClientError> {
        let body = serde_json::to_vec(&CompactRequest { revision })
            .map_err(|e| ClientError::Invalid(format!("the request has no JSON: {e}")))?;
        self.write("POST", "/v1/compact".to_owned(), Some(&body), options)
    }

    /// A page of the kept versions of a key, newest first, deletions included. A cursor in the reply, given back in the
    /// options, brings the older ones, from any node.
    ///
    /// # Errors
    /// As for any read.
    pub fn history(&self, key: &[u8], options: &HistoryOptions) -> Result<HistoryReply, ClientError> {
        let HistoryOptions { limit, cursor, stale } = options;
        let mut parameters = ReadOptions { stale: *stale, ..ReadOptions::default() }.parameters();
        if let Some(limit) = limit {
            parameters.push(("limit", limit.to_string()));
        }
        if let Some(cursor) = cursor {
            parameters.push(("cursor", percent_encode(cursor.as_bytes(), NON_ALPHANUMERIC).to_string()));
        }
        let target = with_query(key_path("/v1/history/", key)?, &parameters);
        self.call(&get(&target), Kind::Read, json)
    }
}
