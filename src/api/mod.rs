//! The client API's JSON types, header names and error codes, version 1. Server and client share them, so that each
//! exists once.

mod cluster;
mod error;
mod headers;
mod history;
mod lease;
mod list;
mod record;
mod snapshot;
mod status;
mod strict;
mod txn;
mod watch;
mod write;

pub use cluster::{
    ChangeReply, ClusterReply, LeaderRef, MemberInfo, MembersReply, NewMember, TransferReply, TransferRequest,
};
pub use error::{ErrorBody, ErrorCode, ErrorDetail, ErrorOutcome};
pub use headers::{
    CLUSTER_HEADER, CREATE_REVISION_HEADER, IDEMPOTENCY_KEY_HEADER, INDEX_HEADER, LEADER_HEADER,
    LEASE_HEADER, MAX_IDEMPOTENCY_KEY, NODE_HEADER, REPLAYED_HEADER, REVISION_HEADER, SNAPSHOT_BYTES_HEADER,
    SNAPSHOT_CRC_HEADER, VERSION_HEADER, is_cluster_id, is_idempotency_key,
};
pub use history::{
    CompactReply, CompactRequest, DEFAULT_HISTORY_LIMIT, HistoryItem, HistoryReply, MAX_HISTORY_LIMIT,
};
pub use lease::{
    DEFAULT_LEASES_LIMIT, KeyName, LeaseInfo, LeaseReply, LeaseRequest, LeaseShown, LeasesReply,
    MAX_LEASES_LIMIT, RevokeReply,
};
pub use list::{DEFAULT_LIST_LIMIT, Folder, ListReply, MAX_LIST_BYTES, MAX_LIST_LIMIT, Sort};
pub use record::{KeyValue, ListedRecord, Record};
pub use snapshot::{MAX_SNAPSHOT_PIECE, SnapshotInfo, SnapshotReply, SnapshotsReply};
pub use status::{LogLevelReply, PeerMode, PeerStatus, RoleName, StatusReply};
pub use strict::Strict;
pub use txn::{
    DEFAULT_MAX_TXN_OPS, TxnCondition, TxnDelete, TxnGet, TxnList, TxnOperation, TxnOrder, TxnPut, TxnReply,
    TxnRequest, TxnResult, Wanted,
};
pub use watch::{
    ChangeKind, DEFAULT_WATCH_LIMIT, DEFAULT_WATCH_WAIT_S, MAX_WATCH_ID_BYTES, MAX_WATCH_LIMIT,
    MAX_WATCH_WAIT_S, PutChange, WatchChange, WatchReply, WatchRequest, WatchSpec,
};
pub use write::{AddReply, DeleteReply, Prev, PrevReply, PutReply};
