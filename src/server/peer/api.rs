//! The peer port: its routes, and which senders are admitted.
//!
//! The port has three states, one after the other. *Uninitialized* it answers everything but the bootstrap with 409
//! and who it is. *Starting* (recovery done, threads not yet up) it answers 503. *Initialized* it refuses what is meant
//! for another cluster or another member with 403, before its core hears of it; an unknown sender passes, since only
//! the log says who is a member (thesis §4.1). No handler waits or touches the disk.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::codec::{self, BOOTSTRAP, CodecError, Envelope, LinkKind, NoReply};
use super::link::{self, End, Hosted};
use crate::node::bootstrap::BootstrapPort;
use crate::node::{
    AdminResult, Administration, BootstrapRecord, BootstrapReply, BootstrapRequest, Completion,
    ForwardedResult, ForwardedWrite, Node, PeerReply, PeerRequest, ReadIndexResult,
};
use crate::raft::{
    AppendEntriesReply, AppendEntriesRequest, InstallSnapshotReply, InstallSnapshotRequest, MemberId,
    Membership, RequestVoteReply, RequestVoteRequest, Term, TimeoutNowReply, TimeoutNowRequest,
};
use crate::server::edge::{Connection, Handler, Method, Reply, Request, Response, Takeover};

/// Maximum waiting time of a read, even if a peer asks for more.
const MAX_WAIT_MS: u64 = 60_000;

/// What the peer port asks of a running member. Every method returns at once; a completion that is dropped unused
/// becomes an answer 500, of which the sender concludes nothing, or says that the node is stopping when that is why.
pub trait Member: Send + Sync + 'static {
    /// A vote or pre-vote.
    fn vote(&self, request: RequestVoteRequest, done: Completion<RequestVoteReply>);
    /// An append.
    fn append(&self, request: AppendEntriesRequest, done: Completion<AppendEntriesReply>);
    /// A read index.
    fn read_index(&self, deadline: Instant, done: Completion<ReadIndexResult>);
    /// Forwarded writes: one result for each, in order.
    fn forward(&self, writes: Vec<ForwardedWrite>, done: Completion<Vec<ForwardedResult>>);
    /// A piece of a snapshot.
    fn install_snapshot(&self, request: InstallSnapshotRequest, done: Completion<InstallSnapshotReply>);
    /// A leader asks this member to stand for election (thesis §3.10).
    fn timeout_now(&self, request: TimeoutNowRequest, done: Completion<TimeoutNowReply>);
    /// What an operator asked another node.
    fn administer(&self, what: Administration, deadline: Instant, done: Completion<AdminResult>);
    /// The latest membership.
    fn membership(&self) -> Arc<Membership>;
    /// Whether a committed change has removed this member.
    fn is_removed(&self, member: MemberId) -> bool;
    /// The term that `member` leads and where it listens for peers, when this member follows it as the leader.
    fn followed_leader(&self, member: MemberId) -> Option<(Term, String)>;
    /// The process that led this term has ended.
    fn leader_lost(&self, leader: MemberId, term: Term);
    /// The leader sends data that this program cannot read: the text says which program can. Gives no answer.
    fn end_for_another_program(&self, why: &str);
}

impl Member for Arc<Node> {
    fn vote(&self, request: RequestVoteRequest, done: Completion<RequestVoteReply>) {
        self.answer_vote(request, done);
    }

    fn append(&self, request: AppendEntriesRequest, done: Completion<AppendEntriesReply>) {
        self.answer_append(request, done);
    }

    fn read_index(&self, deadline: Instant, done: Completion<ReadIndexResult>) {
        self.answer_read_index(deadline, done);
    }

    fn forward(&self, writes: Vec<ForwardedWrite>, done: Completion<Vec<ForwardedResult>>) {
        self.answer_forward(writes, done);
    }

    fn install_snapshot(&self, request: InstallSnapshotRequest, done: Completion<InstallSnapshotReply>) {
        self.answer_install_snapshot(request, done);
    }

    fn timeout_now(&self, request: TimeoutNowRequest, done: Completion<TimeoutNowReply>) {
        self.answer_timeout_now(request, done);
    }

    fn administer(&self, what: Administration, deadline: Instant, done: Completion<AdminResult>) {
        Node::administer(self, what, deadline, done);
    }

    fn membership(&self) -> Arc<Membership> {
        Node::membership(self)
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.with_kv(|kv| kv.is_removed(member))
    }

    fn followed_leader(&self, member: MemberId) -> Option<(Term, String)> {
        Node::followed_leader(self, member)
    }

    fn leader_lost(&self, leader: MemberId, term: Term) {
        Node::leader_lost(self, leader, term);
    }

    fn end_for_another_program(&self, why: &str) {
        Node::end_for_another_program(self, why);
    }
}

/// The answer to a request of the peer port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// The reply of the core.
    Reply(PeerReply),
    /// The answer to a bootstrap request.
    Bootstrap(BootstrapReply),
    /// None, with its status.
    None(u16, NoReply),
}

impl PeerAnswer {
    fn refused(status: u16, text: impl fmt::Display) -> PeerAnswer {
        PeerAnswer::None(status, NoReply::Refused(text.to_string()))
    }

    /// Its status and its body.
    pub(super) fn into_parts(self) -> (u16, Vec<u8>) {
        match self {
            PeerAnswer::Reply(reply) => (200, codec::encode_reply(&reply)),
            PeerAnswer::Bootstrap(reply) => (200, codec::encode_bootstrap_reply(&reply)),
            PeerAnswer::None(status, answer) => (status, codec::encode_no_reply(&answer)),
        }
    }

    fn into_response(self) -> Response {
        let (status, body) = self.into_parts();
        Response::new(status, "application/json", body)
    }
}

#[derive(Clone)]
enum Face {
    Starting,
    Uninitialized(BootstrapPort),
    Initialized(Arc<BootstrapRecord>, Arc<dyn Member>),
}

/// The handler of the peer port. Made before the node is initialized, and told when the port changes its state.
#[derive(Clone)]
pub struct PeerApi {
    face: Arc<RwLock<Face>>,
    is_stopping: Arc<AtomicBool>,
    hosted: Arc<Hosted>,
}

impl Default for PeerApi {
    fn default() -> PeerApi {
        let face = Arc::new(RwLock::new(Face::Starting));
        PeerApi { face, is_stopping: Arc::default(), hosted: Arc::default() }
    }
}

impl PeerApi {
    /// Ends the links of members that were removed: rights do not outlive their reason. Only a leader that manages its own
    /// removal may still say so (thesis §4.2.2), and those calls are checked one by one.
    pub fn end_links_of(&self, is_removed: &dyn Fn(MemberId) -> bool) {
        self.hosted.end_links_of(is_removed);
    }

    /// From now on this node is uninitialized; the bootstrap thread reads the other end of `port`.
    pub fn become_uninitialized(&self, port: BootstrapPort) {
        self.change(Face::Uninitialized(port));
    }

    /// From now on this node is initialized but cannot answer yet.
    pub fn become_starting(&self) {
        self.change(Face::Starting);
    }

    /// From now on `member` answers.
    pub fn become_initialized(&self, bootstrap_record: BootstrapRecord, member: Arc<dyn Member>) {
        self.change(Face::Initialized(Arc::new(bootstrap_record), member));
    }

    /// From now on every request is told that this node is stopping, also those whose answers the node drops.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    fn change(&self, face: Face) {
        *self.face.write().unwrap_or_else(PoisonError::into_inner) = face;
    }

    fn or_stopping(&self, done: Completion<PeerAnswer>) -> Completion<PeerAnswer> {
        let mut guard = OrStopping { done: Some(done), is_stopping: self.is_stopping.clone() };
        Box::new(move |answer| {
            if let Some(done) = guard.done.take() {
                done(answer);
            }
        })
    }

    /// Answers the request, now or later.
    pub fn answer(&self, path: &str, body: &[u8], done: Completion<PeerAnswer>) {
        if self.is_stopping.load(Ordering::SeqCst) {
            return done(stopping());
        }
        let face = self.face.read().unwrap_or_else(PoisonError::into_inner).clone();
        if path == BOOTSTRAP {
            return match codec::decode_bootstrap(body) {
                Ok(request) => answer_bootstrap(face, request, done),
                Err(error) => done(PeerAnswer::refused(400, error)),
            };
        }
        let (bootstrap_record, member) = match face {
            Face::Initialized(bootstrap_record, member) => (bootstrap_record, member),
            Face::Uninitialized(port) => {
                return done(PeerAnswer::None(409, NoReply::Uninitialized(port.uninitialized().clone())));
            }
            Face::Starting => return done(starting()),
        };
        match codec::decode_request(path, body) {
            Ok((envelope, request)) => match check_envelope(&bootstrap_record, &envelope) {
                // A member that missed its own removal campaigns or asks: it is told of the removal, so that it ends.
                // A removed leader manages its cluster until the others know of the removal, so appends pass.
                Ok(()) if !is_leaders(&request) && member.is_removed(envelope.from) => {
                    done(PeerAnswer::None(410, NoReply::Removed));
                }
                Ok(()) => {
                    let done = if is_concluded_from(&request) { done } else { self.or_stopping(done) };
                    dispatch(&*member, request, done);
                }
                Err(text) => done(PeerAnswer::refused(403, text)),
            },
            // Only a leader of this cluster sends data that this node's program cannot read.
            Err(CodecError::Newer(envelope, text)) => match check_envelope(&bootstrap_record, &envelope) {
                Ok(()) => member.end_for_another_program(&text),
                Err(text) => done(PeerAnswer::refused(403, text)),
            },
            Err(error @ CodecError::Route(_)) => done(PeerAnswer::refused(404, error)),
            Err(error) => done(PeerAnswer::refused(400, error)),
        }
    }
}

impl PeerApi {
    /// Whether a request with this method and path may become a link.
    pub fn takes_over(method: Method, path: &str) -> bool {
        method == Method::Post && path == codec::LINK
    }

    /// Checks who asks for a link, as every call on it is checked again.
    fn admit_link(&self, body: &[u8]) -> Result<Takeover, Box<PeerAnswer>> {
        if self.is_stopping.load(Ordering::SeqCst) {
            return Err(Box::new(stopping()));
        }
        let (bootstrap_record, member) =
            match self.face.read().unwrap_or_else(PoisonError::into_inner).clone() {
                Face::Initialized(bootstrap_record, member) => (bootstrap_record, member),
                Face::Uninitialized(port) => {
                    let answer = NoReply::Uninitialized(port.uninitialized().clone());
                    return Err(Box::new(PeerAnswer::None(409, answer)));
                }
                Face::Starting => return Err(Box::new(starting())),
            };
        let (envelope, kind) = codec::decode_link(body).map_err(|e| Box::new(PeerAnswer::refused(400, e)))?;
        check_envelope(&bootstrap_record, &envelope).map_err(|e| Box::new(PeerAnswer::refused(403, e)))?;
        // A removed leader manages its cluster until the others know of the removal.
        if kind != LinkKind::Core && member.is_removed(envelope.from) {
            return Err(Box::new(PeerAnswer::None(410, NoReply::Removed)));
        }
        let (api, id) = (self.clone(), self.hosted.admit());
        Ok(Takeover::switch(link::PROTOCOL, move |connection| {
            api.serve_link(connection, id, (envelope.from, kind), &*member);
        }))
    }

    fn serve_link(
        &self,
        connection: Connection,
        id: u64,
        (from, kind): (MemberId, LinkKind),
        member: &dyn Member,
    ) {
        let answer = |route: &'static str, body: &[u8], done: Completion<(u16, Vec<u8>)>| {
            self.answer(route, body, Box::new(|made: PeerAnswer| done(made.into_parts())));
        };
        match self.hosted.serve(connection, id, (from, kind), &answer) {
            // The connection of a process that has ended is closed by its system; nobody listens any more.
            End::Lost if kind == LinkKind::Core => {
                // The term is read before the connect, so that the word is about the process that was looked for.
                if let Some((term, raft_addr)) = member.followed_leader(from)
                    && link::nobody_listens(&raft_addr)
                {
                    member.leader_lost(from, term);
                }
            }
            End::Lost | End::InOrder => {}
            End::Refused(why) => log::warn!("a link of member {from} is ended: {why}"),
        }
    }
}

impl Handler for PeerApi {
    fn handle(&self, request: Request, mut reply: Reply) {
        let answer = |reply: Reply, answer: PeerAnswer| reply.send(move || answer.into_response());
        if request.method == Method::Post && request.path == codec::LINK {
            return match self.admit_link(&request.body) {
                Ok(takeover) => reply.take_over(takeover),
                Err(refusal) => answer(reply, *refusal),
            };
        }
        if request.method != Method::Post {
            return answer(reply, PeerAnswer::refused(405, "every route of the peer port takes POST"));
        }
        if !reply.start_waiting() {
            return answer(reply, PeerAnswer::refused(503, "too many requests of peers wait here"));
        }
        self.answer(&request.path, &request.body, Box::new(move |made| answer(reply, made)));
    }
}

/// An answer that says that the node is stopping when it is dropped for this reason. Forwarded writes and all else that may
/// be executed is answered by the node itself when it stops, never dropped.
struct OrStopping {
    done: Option<Completion<PeerAnswer>>,
    is_stopping: Arc<AtomicBool>,
}

impl Drop for OrStopping {
    fn drop(&mut self) {
        if let Some(done) = self.done.take()
            && self.is_stopping.load(Ordering::SeqCst)
            && !std::thread::panicking()
        {
            done(stopping());
        }
    }
}

fn stopping() -> PeerAnswer {
    PeerAnswer::None(503, NoReply::Stopping)
}

fn starting() -> PeerAnswer {
    PeerAnswer::refused(503, "this node is starting")
}

fn answer_bootstrap(face: Face, request: BootstrapRequest, done: Completion<PeerAnswer>) {
    match (face, request) {
        (Face::Starting, _) => done(starting()),
        (Face::Initialized(bootstrap_record, member), request) => {
            done(PeerAnswer::Bootstrap(bootstrap_record.handle_bootstrap(&request, &member.membership())));
        }
        (Face::Uninitialized(port), BootstrapRequest::Ask(_)) => {
            done(PeerAnswer::Bootstrap(BootstrapReply::Uninitialized(port.uninitialized().clone())));
        }
        (Face::Uninitialized(port), BootstrapRequest::Store(store)) => {
            port.store(store, Box::new(move |reply| done(PeerAnswer::Bootstrap(reply))));
        }
    }
}

/// Wrong cluster or target. A node that lost its directory must never act under the identity it lost, and members of
/// two clusters must never mix, whatever a configuration says.
fn check_envelope(own: &BootstrapRecord, envelope: &Envelope) -> Result<(), String> {
    if envelope.cluster_id != own.cluster_id() {
        return Err(format!(
            "meant for cluster {}, this is cluster {}",
            envelope.cluster_id,
            own.cluster_id()
        ));
    }
    if envelope.to != own.member_id() {
        return Err(format!("meant for member {}, this is member {}", envelope.to, own.member_id()));
    }
    Ok(())
}

/// Whether the sender may conclude from a refusal that nothing was executed.
fn is_concluded_from(request: &PeerRequest) -> bool {
    matches!(
        request,
        PeerRequest::Forward(_) | PeerRequest::ReadIndex { .. } | PeerRequest::Administer { .. }
    )
}

/// Whether only a leader sends it.
fn is_leaders(request: &PeerRequest) -> bool {
    matches!(
        request,
        PeerRequest::AppendEntries(_) | PeerRequest::InstallSnapshot(_) | PeerRequest::TimeoutNow(_)
    )
}

fn dispatch(member: &dyn Member, request: PeerRequest, done: Completion<PeerAnswer>) {
    match request {
        PeerRequest::RequestVote(request) => {
            member.vote(request, Box::new(|reply| done(PeerAnswer::Reply(PeerReply::RequestVote(reply)))));
        }
        PeerRequest::AppendEntries(request) => {
            member
                .append(request, Box::new(|reply| done(PeerAnswer::Reply(PeerReply::AppendEntries(reply)))));
        }
        PeerRequest::ReadIndex { remaining_ms } => {
            let deadline = Instant::now() + Duration::from_millis(remaining_ms.min(MAX_WAIT_MS));
            let done = Box::new(|result| done(PeerAnswer::Reply(PeerReply::ReadIndex(result))));
            member.read_index(deadline, done);
        }
        PeerRequest::InstallSnapshot(request) => {
            member.install_snapshot(
                request,
                Box::new(|reply| done(PeerAnswer::Reply(PeerReply::InstallSnapshot(reply)))),
            );
        }
        PeerRequest::TimeoutNow(request) => {
            member.timeout_now(
                request,
                Box::new(|reply| done(PeerAnswer::Reply(PeerReply::TimeoutNow(reply)))),
            );
        }
        PeerRequest::Administer { what, remaining_ms } => {
            let deadline = Instant::now() + Duration::from_millis(remaining_ms.min(MAX_WAIT_MS));
            let done = Box::new(|result| done(PeerAnswer::Reply(PeerReply::Administer(result))));
            member.administer(what, deadline, done);
        }
        PeerRequest::Forward(mut writes) => {
            writes.iter_mut().for_each(|write| write.remaining_ms = write.remaining_ms.min(MAX_WAIT_MS));
            let done = Box::new(|results| done(PeerAnswer::Reply(PeerReply::Forward(results))));
            member.forward(writes, done);
        }
    }
}
