//! The bodies of the peer port: one line of JSON, and after it the bytes that are not text: entry frames, encoded
//! commands.
//!
//! | route | line | after it |
//! |---|---|---|
//! | `/raft/request_vote` | envelope, the RPC | |
//! | `/raft/append_entries` | envelope, term, prev, commit, number of entries | that many frames |
//! | `/raft/read_index` | envelope, remaining time | |
//! | `/raft/forward` | envelope, length and CRC-32C of each write | the encoded commands |
//! | `/raft/install_snapshot` | envelope, term, which snapshot, offset, CRC-32C of the piece | the piece |
//! | `/raft/timeout_now` | envelope, term | |
//! | `/raft/administer` | envelope, what is asked, remaining time | |
//! | `/raft/link` | envelope, which calls it will carry | |
//! | `/raft/bootstrap` | ask, or store with its target and the latest membership | for a store one frame |
//!
//! A field that this program does not know is ignored: a newer member may send more fields than an older one
//! understands. Fields that must be understood are sent only when the version in force has them.
//!
//! Every count and length is compared with the bytes that are there before anything is allocated for it, every frame
//! and command is checked by its CRC, and what the core takes for granted is checked here: consecutive entries, terms
//! that do not fall. A body that fails is answered 400 and nothing of it reaches the core.

#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::node::{
    Administration, BootstrapReply, BootstrapRequest, ForwardedWrite, PeerReply, PeerRequest, StoreGenesis,
    Uninitialized,
};
use crate::raft::{
    AppendEntriesRequest, ClusterId, Draft, Entry, FRAME_HEADER_BYTES, FrameError, Index,
    InstallSnapshotRequest, MAX_PAYLOAD_BYTES, MemberId, Membership, Position, RequestVoteRequest, Term,
    TimeoutNowRequest,
};

/// Maximum size of a body of the peer port, in both directions. An append carries at most 1 MiB of entries, or one
/// entry.
pub const MAX_PEER_BODY_BYTES: usize = 2 * MAX_PAYLOAD_BYTES;

/// Maximum of terms and indexes: so arithmetic on accepted values never overflows.
const MAX_NUMBER: u64 = 1 << 62;

/// The route of votes.
pub const REQUEST_VOTE: &str = "/raft/request_vote";
/// The route of appends.
pub const APPEND_ENTRIES: &str = "/raft/append_entries";
/// The route of read indexes.
pub const READ_INDEX: &str = "/raft/read_index";
/// The route of forwarded writes.
pub const FORWARD: &str = "/raft/forward";
/// The route of snapshots.
pub const INSTALL_SNAPSHOT: &str = "/raft/install_snapshot";
/// The route of leadership transfers.
pub const TIMEOUT_NOW: &str = "/raft/timeout_now";
/// The route of what operators ask.
pub const ADMINISTER: &str = "/raft/administer";
/// The route by which a link begins.
pub const LINK: &str = "/raft/link";
/// The route of bootstrap, the only one without an envelope.
pub const BOOTSTRAP: &str = "/raft/bootstrap";

/// Which calls a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// Votes, appends and TimeoutNow.
    Core,
    /// Forwarded writes.
    Forwards,
    /// Read indexes.
    ReadIndexes,
}

impl LinkKind {
    /// The kind of link that carries calls of this route; `None` when none does.
    pub fn of(route: &str) -> Option<LinkKind> {
        Some(match route {
            REQUEST_VOTE | APPEND_ENTRIES | TIMEOUT_NOW => LinkKind::Core,
            FORWARD => LinkKind::Forwards,
            READ_INDEX => LinkKind::ReadIndexes,
            _ => return None,
        })
    }
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The line is not the JSON it should be.
    #[error("the first line does not parse: {0}")]
    Line(String),
    /// The bytes after the line are not what the line announces.
    #[error("{0}")]
    Body(String),
    /// A frame that only a later program reads.
    #[error("{1}")]
    Newer(Envelope, String),
    /// No route of the peer port.
    #[error("no route of the peer port: {0}")]
    Route(String),
}

/// Identity in every request but `/raft/bootstrap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender's cluster.
    pub cluster_id: ClusterId,
    /// The sender.
    pub from: MemberId,
    /// The member that it is meant for.
    pub to: MemberId,
}

/// The line of every request with an envelope.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    envelope: Envelope,
    request: T,
}

#[derive(Serialize, Deserialize)]
struct AppendLine {
    term: Term,
    prev: Position,
    commit: Index,
    entries: usize,
}

#[derive(Serialize, Deserialize)]
struct ReadIndexLine {
    remaining_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct WriteLine {
    bytes: usize,
    crc32c: u32,
    remaining_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct PieceLine {
    term: Term,
    last: Position,
    size: u64,
    crc32c: u32,
    offset: u64,
    piece_crc32c: u32,
}

#[derive(Serialize, Deserialize)]
struct TermLine {
    term: Term,
}

#[derive(Serialize, Deserialize)]
struct LinkLine {
    kind: LinkKind,
}

#[derive(Serialize, Deserialize)]
struct AdministerLine {
    what: Administration,
    remaining_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BootstrapLine {
    Ask(Uninitialized),
    Store {
        target: MemberId,
        #[serde(deserialize_with = "Membership::from_wire")]
        members: Membership,
    },
}

/// The body of a refusal: with status 409 the receiver is uninitialized, with 410 the sender was removed, with 400,
/// 403 and 503 the receiver refused before its core saw the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoReply {
    /// No log here.
    Uninitialized(Uninitialized),
    /// The sender was removed from the cluster, by a change that is committed.
    Removed,
    /// The receiver is stopping.
    Stopping,
    /// Why not.
    Refused(String),
}

/// The route of a request.
pub fn route(request: &PeerRequest) -> &'static str {
    match request {
        PeerRequest::RequestVote(_) => REQUEST_VOTE,
        PeerRequest::AppendEntries(_) => APPEND_ENTRIES,
        PeerRequest::ReadIndex { .. } => READ_INDEX,
        PeerRequest::Forward(_) => FORWARD,
        PeerRequest::InstallSnapshot(_) => INSTALL_SNAPSHOT,
        PeerRequest::TimeoutNow(_) => TIMEOUT_NOW,
        PeerRequest::Administer { .. } => ADMINISTER,
    }
}

/// The body of a request.
pub fn encode_request(envelope: Envelope, request: &PeerRequest) -> Vec<u8> {
    match request {
        PeerRequest::RequestVote(vote) => line(&Line { envelope, request: vote }, 0),
        PeerRequest::AppendEntries(append) => {
            let head = AppendLine {
                term: append.term,
                prev: append.prev,
                commit: append.commit,
                entries: append.entries.len(),
            };
            let bytes = append.entries.iter().map(|e| e.frame().len()).sum();
            let mut body = line(&Line { envelope, request: head }, bytes);
            append.entries.iter().for_each(|e| body.extend_from_slice(e.frame()));
            body
        }
        PeerRequest::ReadIndex { remaining_ms } => {
            line(&Line { envelope, request: ReadIndexLine { remaining_ms: *remaining_ms } }, 0)
        }
        PeerRequest::Forward(writes) => {
            let head: Vec<WriteLine> = writes
                .iter()
                .map(|w| WriteLine {
                    bytes: w.command.payload().len(),
                    crc32c: crc32c::crc32c(w.command.payload()),
                    remaining_ms: w.remaining_ms,
                })
                .collect();
            let bytes = writes.iter().map(|w| w.command.payload().len()).sum();
            let mut body = line(&Line { envelope, request: head }, bytes);
            writes.iter().for_each(|w| body.extend_from_slice(w.command.payload()));
            body
        }
        PeerRequest::InstallSnapshot(piece) => {
            let &InstallSnapshotRequest { term, last, size, crc, offset, .. } = piece;
            let piece_crc32c = crc32c::crc32c(&piece.data);
            let head = PieceLine { term, last, size, crc32c: crc, offset, piece_crc32c };
            let mut body = line(&Line { envelope, request: head }, piece.data.len());
            body.extend_from_slice(&piece.data);
            body
        }
        PeerRequest::TimeoutNow(request) => {
            line(&Line { envelope, request: TermLine { term: request.term } }, 0)
        }
        PeerRequest::Administer { what, remaining_ms } => {
            let head = AdministerLine { what: what.clone(), remaining_ms: *remaining_ms };
            line(&Line { envelope, request: head }, 0)
        }
    }
}

/// Reads a request from its route and body.
pub fn decode_request(route: &str, body: &[u8]) -> Result<(Envelope, PeerRequest), CodecError> {
    let (head, rest) = split(body);
    match route {
        REQUEST_VOTE => {
            let Line::<RequestVoteRequest> { envelope, request } = parse(head)?;
            nothing_after(rest)?;
            bounded([request.term, request.last.index, request.last.term])?;
            if request.candidate != envelope.from {
                return Err(CodecError::Body(format!("candidate {} is not the sender", request.candidate)));
            }
            Ok((envelope, PeerRequest::RequestVote(request)))
        }
        APPEND_ENTRIES => {
            let Line::<AppendLine> { envelope, request: head } = parse(head)?;
            let entries = decode_entries(envelope, &head, rest)?;
            let append = AppendEntriesRequest {
                term: head.term,
                leader: envelope.from,
                prev: head.prev,
                commit: head.commit,
                entries,
            };
            append.validate().map_err(CodecError::Body)?;
            Ok((envelope, PeerRequest::AppendEntries(append)))
        }
        READ_INDEX => {
            let Line::<ReadIndexLine> { envelope, request } = parse(head)?;
            nothing_after(rest)?;
            Ok((envelope, PeerRequest::ReadIndex { remaining_ms: request.remaining_ms }))
        }
        FORWARD => {
            let Line::<Vec<WriteLine>> { envelope, request } = parse(head)?;
            Ok((envelope, PeerRequest::Forward(decode_writes(&request, rest)?)))
        }
        INSTALL_SNAPSHOT => {
            let Line::<PieceLine> { envelope, request: head } = parse(head)?;
            Ok((envelope, PeerRequest::InstallSnapshot(decode_piece(envelope.from, &head, rest)?)))
        }
        TIMEOUT_NOW => {
            let Line::<TermLine> { envelope, request } = parse(head)?;
            nothing_after(rest)?;
            bounded([request.term])?;
            let request = TimeoutNowRequest { term: request.term, leader: envelope.from };
            Ok((envelope, PeerRequest::TimeoutNow(request)))
        }
        ADMINISTER => {
            let Line::<AdministerLine> { envelope, request } = parse(head)?;
            nothing_after(rest)?;
            let AdministerLine { what, remaining_ms } = request;
            Ok((envelope, PeerRequest::Administer { what, remaining_ms }))
        }
        other => Err(CodecError::Route(other.to_owned())),
    }
}

fn decode_entries(envelope: Envelope, head: &AppendLine, mut rest: &[u8]) -> Result<Vec<Entry>, CodecError> {
    bounded([head.term, head.prev.index, head.prev.term, head.commit])?;
    if head.entries > rest.len() / FRAME_HEADER_BYTES {
        return Err(CodecError::Body(format!(
            "{} entries do not fit into {} bytes",
            head.entries,
            rest.len()
        )));
    }
    let mut entries = Vec::with_capacity(head.entries);
    for n in 0..head.entries {
        let (entry, used) = Entry::decode(rest).map_err(|e| match e {
            FrameError::Kind(_) => CodecError::Newer(envelope, e.to_string()),
            e => CodecError::Body(format!("frame {n}: {e}")),
        })?;
        entries.push(entry);
        rest = &rest[used..];
    }
    nothing_after(rest)?;
    Ok(entries)
}

fn decode_piece(
    leader: MemberId,
    head: &PieceLine,
    data: &[u8],
) -> Result<InstallSnapshotRequest, CodecError> {
    let &PieceLine { term, last, size, crc32c: crc, offset, piece_crc32c } = head;
    bounded([term, last.index, last.term, size, offset])?;
    if last.term > term {
        return Err(CodecError::Body(format!("snapshot {last} has a higher term than its leader's {term}")));
    }
    if data.is_empty() || offset + data.len() as u64 > size {
        let bytes = data.len();
        return Err(CodecError::Body(format!("{bytes} bytes at {offset} are no piece of a file of {size}")));
    }
    if crc32c::crc32c(data) != piece_crc32c {
        return Err(CodecError::Body("the piece's checksum does not match".into()));
    }
    Ok(InstallSnapshotRequest { term, leader, last, size, crc, offset, data: data.to_vec() })
}

fn decode_writes(head: &[WriteLine], mut rest: &[u8]) -> Result<Vec<ForwardedWrite>, CodecError> {
    let mut writes = Vec::with_capacity(head.len());
    for write in head {
        let command = rest.get(..write.bytes).ok_or_else(|| {
            CodecError::Body(format!("a write of {} bytes, {} are there", write.bytes, rest.len()))
        })?;
        if crc32c::crc32c(command) != write.crc32c {
            return Err(CodecError::Body("a write's checksum does not match".into()));
        }
        writes.push(ForwardedWrite { command: Draft::command(command), remaining_ms: write.remaining_ms });
        rest = &rest[write.bytes..];
    }
    nothing_after(rest)?;
    Ok(writes)
}

/// The body of a request for a link.
pub fn encode_link(envelope: Envelope, kind: LinkKind) -> Vec<u8> {
    line(&Line { envelope, request: LinkLine { kind } }, 0)
}

/// Reads a request for a link.
pub fn decode_link(body: &[u8]) -> Result<(Envelope, LinkKind), CodecError> {
    let (head, rest) = split(body);
    nothing_after(rest)?;
    let Line::<LinkLine> { envelope, request } = parse(head)?;
    Ok((envelope, request.kind))
}

/// The body of a reply.
pub fn encode_reply(reply: &PeerReply) -> Vec<u8> {
    match reply {
        PeerReply::RequestVote(reply) => line(reply, 0),
        PeerReply::AppendEntries(reply) => line(reply, 0),
        PeerReply::ReadIndex(reply) => line(reply, 0),
        PeerReply::Forward(results) => line(results, 0),
        PeerReply::InstallSnapshot(reply) => line(reply, 0),
        PeerReply::TimeoutNow(reply) => line(reply, 0),
        PeerReply::Administer(result) => line(result, 0),
    }
}

/// Reads the reply to a request of `route`; `writes` is how many writes that request forwarded.
pub fn decode_reply(route: &str, writes: usize, body: &[u8]) -> Result<PeerReply, CodecError> {
    let (head, rest) = split(body);
    nothing_after(rest)?;
    match route {
        REQUEST_VOTE => Ok(PeerReply::RequestVote(parse(head)?)),
        APPEND_ENTRIES => Ok(PeerReply::AppendEntries(parse(head)?)),
        READ_INDEX => Ok(PeerReply::ReadIndex(parse(head)?)),
        FORWARD => {
            let results: Vec<_> = parse(head)?;
            if results.len() != writes {
                return Err(CodecError::Body(format!("{} results for {writes} writes", results.len())));
            }
            Ok(PeerReply::Forward(results))
        }
        INSTALL_SNAPSHOT => Ok(PeerReply::InstallSnapshot(parse(head)?)),
        TIMEOUT_NOW => Ok(PeerReply::TimeoutNow(parse(head)?)),
        ADMINISTER => Ok(PeerReply::Administer(parse(head)?)),
        other => Err(CodecError::Route(other.to_owned())),
    }
}

/// The body of a bootstrap request.
pub fn encode_bootstrap(request: &BootstrapRequest) -> Vec<u8> {
    match request {
        BootstrapRequest::Ask(uninitialized) => line(&BootstrapLine::Ask(uninitialized.clone()), 0),
        BootstrapRequest::Store(store) => {
            let head = BootstrapLine::Store { target: store.target, members: store.members.clone() };
            let mut body = line(&head, store.entry.frame().len());
            body.extend_from_slice(store.entry.frame());
            body
        }
    }
}

/// Reads a bootstrap request.
pub fn decode_bootstrap(body: &[u8]) -> Result<BootstrapRequest, CodecError> {
    let (head, rest) = split(body);
    match parse(head)? {
        BootstrapLine::Ask(uninitialized) => {
            nothing_after(rest).map(|()| BootstrapRequest::Ask(uninitialized))
        }
        BootstrapLine::Store { target, members } => {
            let (entry, used) =
                Entry::decode(rest).map_err(|e| CodecError::Body(format!("the genesis frame: {e}")))?;
            nothing_after(&rest[used..])?;
            Ok(BootstrapRequest::Store(StoreGenesis { target, entry, members }))
        }
    }
}

/// The body of an answer to a bootstrap request.
pub fn encode_bootstrap_reply(reply: &BootstrapReply) -> Vec<u8> {
    line(reply, 0)
}

/// Reads the answer to a bootstrap request.
pub fn decode_bootstrap_reply(body: &[u8]) -> Result<BootstrapReply, CodecError> {
    let (head, rest) = split(body);
    nothing_after(rest)?;
    parse(head)
}

/// The body of a refusal.
pub fn encode_no_reply(answer: &NoReply) -> Vec<u8> {
    line(answer, 0)
}

/// Reads the body of an answer that is none.
pub fn decode_no_reply(body: &[u8]) -> Result<NoReply, CodecError> {
    let (head, rest) = split(body);
    nothing_after(rest)?;
    parse(head)
}

/// `value` as one line of JSON, with room for `more` bytes after it.
fn line<T: Serialize>(value: &T, more: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + more);
    serde_json::to_writer(&mut bytes, value).expect("plain data serialises into memory");
    bytes.push(b'\n');
    bytes
}

/// The line, without its end, and what is after it.
fn split(body: &[u8]) -> (&[u8], &[u8]) {
    match body.iter().position(|&b| b == b'\n') {
        Some(end) => (&body[..end], &body[end + 1..]),
        None => (body, &[]),
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(line).map_err(|e| CodecError::Line(e.to_string()))
}

fn nothing_after(rest: &[u8]) -> Result<(), CodecError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(CodecError::Body(format!("{} bytes more than announced", rest.len())))
}

fn bounded<const N: usize>(numbers: [u64; N]) -> Result<(), CodecError> {
    match numbers.into_iter().find(|&n| n > MAX_NUMBER) {
        None => Ok(()),
        Some(n) => Err(CodecError::Body(format!("{n} is no term and no index"))),
    }
}
