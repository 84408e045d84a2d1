//! The admin thread: it carries out what operators ask, one after the other, and may wait while it does; the workers of
//! the client port never do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::client_api::failed;
use super::http::{Reply, Response};
use super::members::Asked;
use super::peer_client::HttpFounding;
use super::shared::Shared;
use crate::api::{ChangeReply, ErrorBody, ErrorCode, HandOverReply, INDEX_HEADER, LeaderRef, NewMember};
use crate::node::{
    AdminFailure, AdminFailureKind, Administered, Administration, Consistency, Failure, FailureKind,
    FoundReply, FoundRequest, FoundTransport, Node, PeerList, Unborn,
};
use crate::raft::{FIRST_PROTOCOL, Member, MemberId, MembershipChange, PROTOCOL, Protocol};
use crate::store::Kv;

/// What may wait for the admin thread; more is refused as overloaded.
const QUEUE: usize = 64;

/// How often a member without a vote that hears no leader asks whether it was removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Job {
    asked: Asked,
    deadline: Instant,
    reply: Reply,
}

/// Where the client port leaves what operators ask.
#[derive(Clone)]
pub struct AdminPort {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
}

/// Starts the admin thread. It ends with the process, or soon after the server stops.
///
/// # Errors
/// The thread could not be started.
pub fn start(shared: &Arc<Shared>) -> std::io::Result<AdminPort> {
    let (jobs, inbox) = bounded(QUEUE);
    let served = shared.clone();
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || run(&served, &inbox))?;
    Ok(AdminPort { shared: shared.clone(), jobs })
}

impl AdminPort {
    /// Answers `reply` by `deadline`, and a moment later where others were before it.
    pub(super) fn ask(&self, asked: Asked, deadline: Instant, reply: Reply) {
        if let Err(refused) = self.jobs.try_send(Job { asked, deadline, reply }) {
            let shared = self.shared.clone();
            let text = "too many changes of the cluster wait already: try again";
            refused
                .into_inner()
                .reply
                .send(move || shared.decorate(Response::error(&ErrorBody::new(ErrorCode::Overloaded, text))));
        }
    }
}

fn run(shared: &Arc<Shared>, inbox: &Receiver<Job>) {
    let founding = HttpFounding::default();
    while !shared.is_stopping() {
        match inbox.recv_timeout(LOOK_EVERY) {
            Ok(Job { asked, deadline, reply }) => {
                // A reply that is dropped in a panic answers 500.
                let job = AssertUnwindSafe(|| {
                    let response = answer(shared, &founding, &asked, deadline)
                        .unwrap_or_else(|error| Response::error(&error));
                    let shared = shared.clone();
                    reply.send(move || shared.decorate(response));
                });
                let _ = catch_unwind(job);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(node) = shared.node() {
                    node.ask_whether_removed();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn answer(
    shared: &Shared,
    founding: &HttpFounding,
    asked: &Asked,
    deadline: Instant,
) -> Result<Response, ErrorBody> {
    let node = shared.node().ok_or_else(|| shared.unborn_error())?;
    catch_up(node, deadline)?;
    let what = match asked {
        Asked::Add(new, member_id) => {
            let (member_id, protocol) = match member_id {
                Some(id) => (*id, speaks(shared, node, founding, new, *id)),
                None => {
                    let (id, speaks) = ask_who_is_there(shared, node, founding, new)?;
                    (id, Some(speaks))
                }
            };
            let member = Member {
                node_id: new.node_id.clone(),
                member_id,
                raft_addr: new.raft_addr.clone(),
                http_addr: new.http_addr.clone(),
                voter: false,
                promote: new.promote,
            };
            Administration::Change(MembershipChange::Add(member, protocol))
        }
        Asked::Remove(name) => Administration::Change(MembershipChange::Remove(find(node, name)?)),
        Asked::Promote(name) => Administration::Change(MembershipChange::Promote(find(node, name)?)),
        Asked::HandOver(name) => {
            Administration::HandOver(name.as_deref().map(|name| find(node, name)).transpose()?)
        }
    };
    match node.administer_through_leader(&what, deadline).map_err(|failure| error(&failure))? {
        Administered::Changed(index) => {
            Ok(Response::json(200, &ChangeReply { index }).with_header(INDEX_HEADER, index.to_string()))
        }
        Administered::LedBy(id) => match node.membership().get(id) {
            Some(member) => Ok(Response::json(200, &HandOverReply { leader: LeaderRef::from(member) })),
            None => Err(ErrorBody::new(ErrorCode::Unavailable, "the new leader was removed meanwhile")),
        },
    }
}

/// Waits until this node knows every change that was answered before it was asked, so that names mean what the operator
/// means.
fn catch_up(node: &Arc<Node>, deadline: Instant) -> Result<(), ErrorBody> {
    let (told, tell) = bounded(1);
    // The other end may have given up.
    let done = Box::new(move |result: Result<_, Failure>| drop(told.try_send(result)));
    node.read(Consistency::Linearizable, deadline, done);
    let late = || Failure::new(FailureKind::Timeout, "the deadline passed while the leader was asked");
    match tell.recv_deadline(deadline + LOOK_EVERY).unwrap_or_else(|_| Err(late())) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failed(&failure)),
    }
}

fn find(node: &Node, name: &str) -> Result<MemberId, ErrorBody> {
    let membership = node.membership();
    match membership.by_name(name) {
        Some(member) => Ok(member.member_id),
        None => {
            let names: Vec<&str> = membership.members.iter().map(|m| m.node_id.as_str()).collect();
            let text = format!("there is no member {name}; there are {}", names.join(", "));
            Err(ErrorBody::new(ErrorCode::NotFound, text))
        }
    }
}

/// What the program of a new member speaks, whose identity is known. It is asked only where that decides something.
fn speaks(
    shared: &Shared,
    node: &Node,
    founding: &HttpFounding,
    new: &NewMember,
    member_id: MemberId,
) -> Option<Protocol> {
    if new.protocol.is_some() || node.with_kv(Kv::version) == FIRST_PROTOCOL {
        return new.protocol;
    }
    let there = ask_who_is_there(shared, node, founding, new).ok();
    there.filter(|(id, _)| *id == member_id).map(|(_, speaks)| speaks)
}

/// The identity of the node at the address of a new member, and what its program speaks.
fn ask_who_is_there(
    shared: &Shared,
    node: &Node,
    founding: &HttpFounding,
    new: &NewMember,
) -> Result<(MemberId, Protocol), ErrorBody> {
    let conflict = |text: String| ErrorBody::new(ErrorCode::Conflict, text);
    let membership = node.membership();
    let own = Unborn {
        node_id: shared.config().node_id.clone(),
        member_id: node.member_id(),
        peers: PeerList::from(&*membership),
        restored: None,
        protocol: PROTOCOL,
    };
    let NewMember { node_id, raft_addr, http_addr, .. } = new;
    let (there, member_id, protocol) = match founding.found(raft_addr, &FoundRequest::Ask(own)) {
        Ok(FoundReply::Unborn(unborn)) => (unborn.node_id, unborn.member_id, unborn.protocol),
        Ok(FoundReply::Born { node_id, member_id, cluster_id, protocol, .. }) => {
            if cluster_id != node.cluster_id() {
                return Err(conflict(format!(
                    "at {raft_addr} runs {node_id} of another cluster ({cluster_id}): a new member starts with an \
                     empty data_dir"
                )));
            }
            (node_id, member_id, protocol)
        }
        other => {
            let trouble = match other {
                Err(error) => error.to_string(),
                Ok(other) => format!("it answers {other:?}"),
            };
            let through = &shared.config().me().http_addr;
            return Err(conflict(format!(
                "no new node answers at {raft_addr} ({trouble}): start it there, with an empty data_dir, by dkv-server \
                 --join {through} --node-id {node_id} --raft-addr {raft_addr} --http-addr {http_addr} --data-dir DIR"
            ))
            .as_temporary());
        }
    };
    // A member that was removed does not know its name any more; the leader refuses its identity.
    if there != *node_id && !there.is_empty() {
        return Err(conflict(format!("at {raft_addr} is a node that calls itself {there}, not {node_id}")));
    }
    Ok((member_id, protocol))
}

fn error(failure: &AdminFailure) -> ErrorBody {
    let conflict = || ErrorBody::new(ErrorCode::Conflict, failure.message.clone());
    match failure.kind {
        AdminFailureKind::NotFound => ErrorBody::new(ErrorCode::NotFound, failure.message.clone()),
        AdminFailureKind::Refused => conflict(),
        AdminFailureKind::UnderWay | AdminFailureKind::Conflict => conflict().as_temporary(),
        AdminFailureKind::NotLeader => ErrorBody::new(ErrorCode::Unavailable, failure.message.clone()),
        AdminFailureKind::Failed(kind) => failed(&Failure::new(kind, failure.message.clone())),
    }
}
