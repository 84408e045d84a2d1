//! Operators' requests use names: this module finds which member is meant, and the identity of a new member. The
//! names are looked up in a membership that holds every change that was answered before. The change itself goes
//! through the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::Node;
use super::boot::bootstrap_rpc::{
    BootstrapReply, BootstrapRequest, BootstrapTransport, PeerList, Uninitialized,
};
use super::request::{
    AdminFailure, AdminFailureKind, Administered, Administration, Consistency, Failure, FailureKind,
};
use crate::raft::{FIRST_PROTOCOL, Index, Member, MemberId, MembershipChange, PROTOCOL, Protocol};
use crate::store::Kv;

/// A read is answered by its deadline. Its answer may arrive this much later.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// A member that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Its name.
    pub node_id: String,
    /// Where members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it becomes a voter once it has caught up.
    pub promote: bool,
    /// Its identity; if it is not given, the node at its address is asked.
    pub member_id: Option<MemberId>,
    /// Its protocol version, if it says so.
    pub protocol: Option<Protocol>,
}

/// A request of an operator, with names instead of identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorRequest {
    /// To add a member.
    Add(Newcomer),
    /// To remove the member of this name.
    Remove(String),
    /// To make the learner of this name a voter.
    Promote(String),
    /// To transfer the leadership, to the member of this name or to the most advanced one.
    Transfer(Option<String>),
}

/// What was done for an operator, with all details of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorReply {
    /// The membership is as requested; the entry at this index is committed.
    Changed(Index),
    /// This member leads now.
    TransferredTo(Member),
}

impl Node {
    /// Does what an operator asks, through the leader. `calls` reaches the node at a new member's address. Waits until
    /// `deadline`, or a moment longer.
    ///
    /// # Errors
    /// It was not done, or the outcome is unknown.
    pub fn execute(
        self: &Arc<Self>,
        request: &OperatorRequest,
        calls: &dyn BootstrapTransport,
        deadline: Instant,
    ) -> Result<OperatorReply, AdminFailure> {
        self.catch_up(deadline)?;
        let what = match request {
            OperatorRequest::Add(new) => {
                let (member_id, protocol) = match new.member_id {
                    Some(id) => (id, self.speaks(new, id, calls)),
                    None => {
                        let (id, speaks) = self.ask_who_is_there(new, calls)?;
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
            OperatorRequest::Remove(name) => Administration::Remove(self.find(name)?),
            OperatorRequest::Promote(name) => {
                Administration::Change(MembershipChange::Promote(self.find(name)?))
            }
            OperatorRequest::Transfer(name) => {
                Administration::Transfer(name.as_deref().map(|name| self.find(name)).transpose()?)
            }
        };
        match self.administer_through_leader(&what, deadline)? {
            Administered::Changed(index) => Ok(OperatorReply::Changed(index)),
            Administered::TransferredTo(id) => match self.membership().get(id) {
                Some(member) => Ok(OperatorReply::TransferredTo(member.clone())),
                None => Err(AdminFailure::new(
                    AdminFailureKind::Failed(FailureKind::Unavailable),
                    "the new leader was removed meanwhile",
                )),
            },
        }
    }

    /// Waits until this node knows every change that was answered before this request, so that names mean what the
    /// operator means.
    fn catch_up(self: &Arc<Self>, deadline: Instant) -> Result<(), AdminFailure> {
        let (told, tell) = bounded(1);
        // The receiver may have stopped waiting.
        let done = Box::new(move |result: Result<_, Failure>| drop(told.try_send(result)));
        self.read(Consistency::Linearizable, deadline, done);
        let late = || Failure::new(FailureKind::Timeout, "the deadline passed while the leader was asked");
        match tell.recv_deadline(deadline + ANSWER_MARGIN).unwrap_or_else(|_| Err(late())) {
            Ok(_) => Ok(()),
            Err(Failure { kind, message }) => Err(AdminFailure::new(AdminFailureKind::Failed(kind), message)),
        }
    }

    /// Names are those of the committed membership. One that is only in force may still be cut off the log: a member
    /// whose removal is under way is not missing.
    fn find(&self, name: &str) -> Result<MemberId, AdminFailure> {
        let membership = self.with_kv(|kv| kv.membership().clone());
        match membership.by_name(name) {
            Some(member) => Ok(member.member_id),
            None => {
                let names: Vec<&str> = membership.members.iter().map(|m| m.node_id.as_str()).collect();
                let others = if names.len() == 1 { "the only one is" } else { "there are" };
                let text = format!("there is no member {name}; {others} {}", names.join(", "));
                Err(AdminFailure::new(AdminFailureKind::NotFound, text))
            }
        }
    }

    /// The protocol version of a new member with a known identity. The member is asked only when the answer matters.
    fn speaks(
        &self,
        new: &Newcomer,
        member_id: MemberId,
        calls: &dyn BootstrapTransport,
    ) -> Option<Protocol> {
        if new.protocol.is_some() || self.with_kv(Kv::version) == FIRST_PROTOCOL {
            return new.protocol;
        }
        let there = self.ask_who_is_there(new, calls).ok();
        there.filter(|(id, _)| *id == member_id).map(|(_, speaks)| speaks)
    }

    /// The identity of the node at the address of a new member, and its protocol version.
    fn ask_who_is_there(
        &self,
        new: &Newcomer,
        calls: &dyn BootstrapTransport,
    ) -> Result<(MemberId, Protocol), AdminFailure> {
        let refused = |text: String| AdminFailure::new(AdminFailureKind::Refused, text);
        let membership = self.membership();
        let own = Uninitialized {
            node_id: self.options.node_id.clone(),
            member_id: self.options.member_id,
            peers: PeerList::from(&*membership),
            restored: None,
            protocol: PROTOCOL,
        };
        let Newcomer { node_id, raft_addr, http_addr, .. } = new;
        let (there, member_id, protocol) = match calls.bootstrap(raft_addr, &BootstrapRequest::Ask(own)) {
            Ok(BootstrapReply::Uninitialized(uninitialized)) => {
                (uninitialized.node_id, uninitialized.member_id, uninitialized.protocol)
            }
            Ok(BootstrapReply::Initialized { node_id, member_id, cluster_id, protocol, .. }) => {
                if cluster_id != self.options.cluster_id {
                    return Err(refused(format!(
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
                let through = membership.get(self.options.member_id).map_or("ADDRESS", |own| &own.http_addr);
                let text = format!(
                    "no new node answers at {raft_addr} ({trouble}): start it there, with an empty data_dir, by \
                     dkv-server --join {through} --node-id {node_id} --raft-addr {raft_addr} --http-addr {http_addr} \
                     --data-dir DIR, or as always if it is to have its own place again"
                );
                return Err(AdminFailure::new(AdminFailureKind::Conflict, text));
            }
        };
        // A removed member no longer knows its name; the leader refuses its identity.
        if there != *node_id && !there.is_empty() {
            return Err(refused(format!(
                "at {raft_addr} is a node that calls itself {there}, not {node_id}"
            )));
        }
        Ok((member_id, protocol))
    }
}
