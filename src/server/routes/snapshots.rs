//! Snapshots for clients: making, listing, and sending them in pieces, so that no answer is huge and an interrupted
//! download can be continued.
//!
//! A separate thread works with the files: it reads and verifies a whole snapshot before the first piece is sent. The
//! last two requested snapshots stay open, so that a download can continue even if the node has replaced the file
//! meanwhile.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use super::errors::failed;
use super::jobs::{Jobs, PoolOptions, Worker};
use super::params::{Query, invalid};
use crate::api::{
    ErrorBody, ErrorCode, ErrorOutcome, MAX_SNAPSHOT_PIECE, SNAPSHOT_BYTES_HEADER, SNAPSHOT_CRC_HEADER,
    SnapshotInfo, SnapshotReply, SnapshotsReply,
};
use crate::node::{BackupResult, Node};
use crate::raft::Index;
use crate::server::edge::{Request, Response};
use crate::server::shared::Shared;
use crate::store::snapshot::{self, SnapshotError, SnapshotName, SnapshotReader};

/// The route of all snapshots; one of them is below it.
const SNAPSHOTS: &str = "/v1/snapshots";

/// What may wait for the thread.
const QUEUE: usize = 64;

/// How many snapshots stay open.
const OPEN: usize = 2;

/// What the thread is asked.
pub(super) enum Asked {
    /// To describe the snapshot that was made, or why there is none.
    Made(BackupResult),
    /// Which snapshots there are.
    List,
    /// For a piece of one.
    Piece { name: SnapshotName, offset: u64, limit: usize },
}

/// To make a snapshot: through this index at least; without one, of everything acknowledged before.
pub(super) fn parse_make(request: &Request) -> Result<Option<Index>, ErrorBody> {
    if !request.body.is_empty() {
        return Err(invalid("this request has no body"));
    }
    Query::parse(request.query.as_deref(), &["min_index"])?.number("min_index")
}

/// To list the snapshots.
pub(super) fn parse_list(request: &Request) -> Result<Asked, ErrorBody> {
    Query::parse(request.query.as_deref(), &[]).map(|_| Asked::List)
}

/// For a piece of the snapshot `name`.
pub(super) fn parse_piece(name: &str, request: &Request) -> Result<Asked, ErrorBody> {
    let query = Query::parse(request.query.as_deref(), &["offset", "limit"])?;
    let offset = query.number("offset")?.unwrap_or(0);
    let most = MAX_SNAPSHOT_PIECE as u64;
    let limit = query.number("limit")?.unwrap_or(most);
    if !(1..=most).contains(&limit) {
        return Err(invalid(format!("limit={limit}: a piece has 1 to {most} bytes")));
    }
    let name = SnapshotName::parse(name).ok_or_else(|| not_here(name))?;
    Ok(Asked::Piece { name, offset, limit: usize::try_from(limit).unwrap_or(MAX_SNAPSHOT_PIECE) })
}

fn not_here(name: &str) -> ErrorBody {
    let name = if name.len() > 64 { "of that name" } else { name };
    let text = format!(
        "there is no snapshot {name} here: it may have been replaced by a newer one; GET {SNAPSHOTS} lists those there \
         are, POST {SNAPSHOTS} makes one"
    );
    ErrorBody::new(ErrorCode::NotFound, text)
}

/// Starts the thread.
///
/// # Errors
/// The thread could not be started.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Jobs<Asked>> {
    let options = PoolOptions {
        name: "backups",
        threads: 1,
        queue: QUEUE,
        full: "too many requests for snapshots wait: try again",
    };
    Jobs::start(shared, &options, || Backups { shared: shared.clone(), open: Open::default() })
}

struct Backups {
    shared: Arc<Shared>,
    open: Open,
}

impl Worker<Asked> for Backups {
    fn answer(&mut self, asked: Asked, _deadline: Instant) -> Result<Response, ErrorBody> {
        let node = self.shared.node().ok_or_else(|| self.shared.uninitialized_error())?;
        let answer = match asked {
            Asked::Made(made) => self.open.made(node, made),
            Asked::List => list(node),
            Asked::Piece { name, offset, limit } => self.open.piece(node, name, offset, limit),
        };
        answer.map_err(|error| error.with_outcome(ErrorOutcome::NotDone))
    }
}

/// The snapshots that were asked for last, the latest at the end.
#[derive(Default)]
struct Open {
    readers: VecDeque<(SnapshotName, SnapshotReader)>,
}

impl Open {
    fn made(&mut self, node: &Node, made: BackupResult) -> Result<Response, ErrorBody> {
        let last = made.map_err(|failure| failed(&failure))?;
        // Newer snapshots may have replaced it already; they hold everything that it held.
        let newest = snapshot::list(node.disk()).map_err(|e| broken(&e))?.into_iter().next();
        let name =
            newest.filter(|newest| newest.position().index > last.index).unwrap_or(SnapshotName::new(last));
        let status = self.get(node, name)?.status();
        let header = &status.header;
        let reply = SnapshotReply {
            name: name.to_string(),
            index: header.meta.last.index,
            term: header.meta.last.term,
            cluster_id: node.cluster_id().to_string(),
            revision: header.revision,
            keys: header.keys,
            bytes: status.bytes,
            crc32c: format!("{:08x}", status.crc),
            state_hash: format!("{:032x}", header.state_hash),
        };
        Ok(Response::json(200, &reply))
    }

    fn piece(
        &mut self,
        node: &Node,
        name: SnapshotName,
        offset: u64,
        limit: usize,
    ) -> Result<Response, ErrorBody> {
        let reader = self.get(node, name)?;
        let (bytes, crc) = (reader.status().bytes, reader.status().crc);
        if offset > bytes {
            return Err(invalid(format!("offset={offset}: this snapshot has {bytes} bytes")));
        }
        let piece = reader.read_at(offset, limit).map_err(|e| broken(&e))?;
        Ok(Response::new(200, "application/octet-stream", piece)
            .with_header(SNAPSHOT_BYTES_HEADER, bytes.to_string())
            .with_header(SNAPSHOT_CRC_HEADER, format!("{crc:08x}")))
    }

    fn get(&mut self, node: &Node, name: SnapshotName) -> Result<&SnapshotReader, ErrorBody> {
        let at = match self.readers.iter().position(|(open, _)| *open == name) {
            Some(at) => at,
            None => {
                let reader = SnapshotReader::open(node.disk(), name).map_err(|e| match &e {
                    SnapshotError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                        not_here(&name.to_string())
                    }
                    _ => broken(&e),
                })?;
                if self.readers.len() == OPEN {
                    self.readers.pop_front();
                }
                self.readers.push_back((name, reader));
                self.readers.len() - 1
            }
        };
        Ok(&self.readers[at].1)
    }
}

fn list(node: &Node) -> Result<Response, ErrorBody> {
    let mut snapshots = Vec::new();
    for name in snapshot::list(node.disk()).map_err(|e| broken(&e))? {
        // A snapshot that was replaced just now no longer exists.
        if let Ok(bytes) = node.disk().open(&name.to_string()).and_then(|file| file.size()) {
            let (index, term) = (name.position().index, name.position().term);
            snapshots.push(SnapshotInfo { name: name.to_string(), index, term, bytes });
        }
    }
    Ok(Response::json(200, &SnapshotsReply { snapshots }))
}

/// Damage on this node's disk is its operator's business; the client asks another node.
fn broken(error: &SnapshotError) -> ErrorBody {
    log::warn!("a snapshot cannot be handed out: {error}");
    ErrorBody::new(ErrorCode::Internal, format!("{error}; ask another node"))
}
