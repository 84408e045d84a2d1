//! Snapshots for clients: made, listed, and handed out in pieces, so that no answer is huge and a download can go on where
//! it broke off.
//!
//! A thread of its own does what touches files: a snapshot is read whole and verified before the first piece of it leaves
//! this node. The last two that were asked for stay open, so that a download goes on although the node has replaced the
//! file meanwhile.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::errors::failed;
use super::params::{Query, invalid};
use crate::api::{
    ErrorBody, ErrorCode, ErrorOutcome, MAX_SNAPSHOT_PIECE, SNAPSHOT_BYTES_HEADER, SNAPSHOT_CRC_HEADER,
    SnapshotInfo, SnapshotReply, SnapshotsReply,
};
use crate::node::{BackupResult, Node};
use crate::raft::Index;
use crate::server::edge::{Method, Reply, Request, Response};
use crate::server::shared::Shared;
use crate::store::snapshot::{self, SnapshotError, SnapshotName, SnapshotReader};

/// The route of all snapshots; one of them is behind it.
const SNAPSHOTS: &str = "/v1/snapshots";

/// What may wait for the thread; more is refused as overloaded.
const QUEUE: usize = 64;

/// So many snapshots stay open.
const OPEN: usize = 2;

/// How often the thread looks whether the server stops.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A route about snapshots.
pub(super) enum Route {
    Make,
    List,
    Piece,
}

/// What a request asks.
pub(super) enum Asked {
    /// A snapshot through this index at least; without one, a snapshot of everything acknowledged before.
    Make(Option<Index>),
    List,
    Piece {
        name: SnapshotName,
        offset: u64,
        limit: usize,
    },
}

impl Route {
    /// The route of a request; the error is the methods that it has. None for other routes.
    pub fn at(request: &Request) -> Option<Result<Route, &'static str>> {
        let rest = request.path.strip_prefix(SNAPSHOTS)?;
        match (rest, request.method) {
            ("", Method::Post) => Some(Ok(Route::Make)),
            ("", Method::Get | Method::Head) => Some(Ok(Route::List)),
            ("", _) => Some(Err("GET, HEAD, POST")),
            (rest, method) if rest.starts_with('/') => Some(match method {
                Method::Get | Method::Head => Ok(Route::Piece),
                _ => Err("GET, HEAD"),
            }),
            _ => None,
        }
    }

    /// Takes the request apart.
    pub fn parse(self, request: &Request) -> Result<Asked, ErrorBody> {
        let query = request.query.as_deref();
        match self {
            Route::Make => {
                if !request.body.is_empty() {
                    return Err(invalid("this request has no body"));
                }
                Ok(Asked::Make(Query::parse(query, &["min_index"])?.number("min_index")?))
            }
            Route::List => Query::parse(query, &[]).map(|_| Asked::List),
            Route::Piece => {
                let query = Query::parse(query, &["offset", "limit"])?;
                let offset = query.number("offset")?.unwrap_or(0);
                let most = MAX_SNAPSHOT_PIECE as u64;
                let limit = query.number("limit")?.unwrap_or(most);
                if !(1..=most).contains(&limit) {
                    return Err(invalid(format!("limit={limit}: a piece has 1 to {most} bytes")));
                }
                let name = &request.path[SNAPSHOTS.len() + 1..];
                let name = SnapshotName::parse(name).ok_or_else(|| not_here(name))?;
                Ok(Asked::Piece { name, offset, limit: usize::try_from(limit).unwrap_or(MAX_SNAPSHOT_PIECE) })
            }
        }
    }
}

fn not_here(name: &str) -> ErrorBody {
    let name = if name.len() > 64 { "of that name" } else { name };
    let text = format!(
        "there is no snapshot {name} here: it may have been replaced by a newer one; GET {SNAPSHOTS} lists those there \
         are, POST {SNAPSHOTS} makes one"
    );
    ErrorBody::new(ErrorCode::NotFound, text)
}

enum Job {
    Made(BackupResult, Reply),
    List(Reply),
    Piece { name: SnapshotName, offset: u64, limit: usize, reply: Reply },
}

impl Job {
    fn into_reply(self) -> Reply {
        match self {
            Job::Made(_, reply) | Job::List(reply) | Job::Piece { reply, .. } => reply,
        }
    }
}

/// Where the client port leaves what it is asked about snapshots.
#[derive(Clone)]
pub struct BackupPort {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
}

/// Starts the thread. It ends with the process, or soon after the server stops.
///
/// # Errors
/// The thread could not be started.
pub fn start(shared: &Arc<Shared>) -> std::io::Result<BackupPort> {
    let (jobs, inbox) = bounded(QUEUE);
    let served = shared.clone();
    std::thread::Builder::new().name("backups".to_owned()).spawn(move || run(&served, &inbox))?;
    Ok(BackupPort { shared: shared.clone(), jobs })
}

impl BackupPort {
    /// Answers `reply`, now or later.
    pub(super) fn ask(&self, node: &Arc<Node>, asked: Asked, deadline: Instant, reply: Reply) {
        match asked {
            Asked::List => self.send(Job::List(reply)),
            Asked::Piece { name, offset, limit } => self.send(Job::Piece { name, offset, limit, reply }),
            Asked::Make(min_index) => {
                let port = self.clone();
                let done = Box::new(move |made: BackupResult| port.send(Job::Made(made, reply)));
                match min_index {
                    Some(index) => node.backup_through(index, deadline, done),
                    None => node.backup(deadline, done),
                }
            }
        }
    }

    fn send(&self, job: Job) {
        if let Err(refused) = self.jobs.try_send(job) {
            let shared = self.shared.clone();
            let error =
                ErrorBody::new(ErrorCode::Overloaded, "too many requests for snapshots wait: try again");
            refused.into_inner().into_reply().send(move || shared.decorate(Response::error(&error)));
        }
    }
}

fn run(shared: &Arc<Shared>, inbox: &Receiver<Job>) {
    let mut open = Open::default();
    while !shared.is_stopping() {
        match inbox.recv_timeout(LOOK_EVERY) {
            Ok(job) => {
                // A reply that is dropped in a panic answers 500.
                let _ = catch_unwind(AssertUnwindSafe(|| serve(shared, &mut open, job)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn serve(shared: &Arc<Shared>, open: &mut Open, job: Job) {
    let Some(node) = shared.node() else { return };
    let (answer, reply) = match job {
        Job::Made(made, reply) => (open.made(node, made), reply),
        Job::List(reply) => (list(node), reply),
        Job::Piece { name, offset, limit, reply } => (open.piece(node, name, offset, limit), reply),
    };
    let response = answer.unwrap_or_else(|error| Response::error(&error.with_outcome(ErrorOutcome::NotDone)));
    let shared = shared.clone();
    reply.send(move || shared.decorate(response));
}

/// The snapshots that were asked for last, the latest at the end.
#[derive(Default)]
struct Open {
    readers: VecDeque<(SnapshotName, SnapshotReader)>,
}

impl Open {
    fn made(&mut self, node: &Node, made: BackupResult) -> Result<Response, ErrorBody> {
        let last = made.map_err(|failure| failed(&failure))?;
        // Newer ones may have taken its place already, and hold all that it held.
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
        // One that is replaced at this moment is not there any more.
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
