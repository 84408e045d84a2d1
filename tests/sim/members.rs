//! Members that come and go, and leaders that transfer their leadership: an operator asks for changes as far as a
//! careful one would, joiners are initialized when a member finds them uninitialized, wiped machines are replaced,
//! removed ones end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dkv::node::{
    AdminFailureKind, AdminResult, Administered, Administration, FailureKind, Origin, PeerRequest, Work,
};
use dkv::raft::{Awaits, Member, MemberId, Membership, MembershipChange, Time, majority};

use crate::nemesis::Act;
use crate::net::{CallId, Caller, NetEvent};
use crate::peers::leave;
use crate::process::{AdminFor, Done, Replicator, Sender};
use crate::report::Mark;
use crate::swarm::{Kind, LONGEST_DELAY_US, Stream};
use crate::world::{Event, NodeIndex, World};

/// The machine of a member.
pub fn machine_of(id: MemberId) -> NodeIndex {
    id.0 as usize - 1
}

/// What the operator has sent over the network and may still arrive.
pub struct Sent {
    what: Administration,
    until: u64,
}

/// Who asks for changes.
pub struct Operator {
    /// What was asked over the network and may still arrive.
    sent: Vec<Sent>,
    /// When a leader was elected last.
    pub elected_at: u64,
    rng: fastrand::Rng,
}

impl Operator {
    /// Of a run with this seed.
    pub fn new(seed: u64) -> Operator {
        Operator { sent: Vec::new(), elected_at: 0, rng: Stream::Operator.rng(seed) }
    }
}

/// Adds what the change makes of each membership. None twice: with many learners there would be no end to them.
fn add_with(known: &mut Vec<Arc<Membership>>, change: &MembershipChange) {
    for at in 0..known.len() {
        if let Ok(Some(after)) = known[at].with(change)
            && !known.iter().any(|m| **m == after)
        {
            known.push(Arc::new(after));
        }
    }
}

impl World {
    // ---- looking ---------------------------------------------------------------------------------------------------------

    /// The machines of the voters of the last committed membership.
    pub fn voters(&self) -> Vec<NodeIndex> {
        self.oracle.membership().voters().map(machine_of).collect()
    }

    /// The machines of the last committed membership that nothing has ruined.
    pub fn members(&self) -> Vec<NodeIndex> {
        let members = self.oracle.membership().members.iter().map(|member| machine_of(member.member_id));
        members.filter(|&node| !self.nodes[node].is_ruined).collect()
    }

    /// Whether nothing is under way that changes the membership by itself.
    pub fn is_membership_stable(&self) -> bool {
        let membership = self.oracle.membership();
        let waits = |member: &Member| {
            member.promote && !member.voter && !self.nodes[machine_of(member.member_id)].is_ruined
        };
        // Somebody who missed the end of it may still have another.
        let in_force = self.members().into_iter().filter_map(|node| self.nodes[node].process.as_ref());
        let are_equal = in_force.map(|process| process.state.raft.membership()).all(|m| m == membership);
        !membership.members.iter().any(waits) && are_equal
    }

    fn is_healthy(&self, id: MemberId) -> bool {
        let machine = &self.nodes[machine_of(id)];
        !machine.is_ruined && machine.disk.rot.is_none()
    }

    /// Every membership that may be in force sooner or later, as things stand.
    fn possible_memberships(&self, asked: Option<&MembershipChange>) -> Vec<Arc<Membership>> {
        let mut known: Vec<Arc<Membership>> = vec![self.oracle.membership().clone()];
        known.extend(self.oracle.uncommitted_memberships().cloned());
        let under_way = self.operator.sent.iter().filter(|sent| sent.until >= self.now);
        let changes = under_way.filter_map(|sent| change_of(&sent.what));
        for change in changes.chain(asked.cloned()) {
            add_with(&mut known, &change);
        }
        let learners: BTreeSet<MemberId> = known
            .iter()
            .flat_map(|m| m.members.iter().filter(|l| l.promote && !l.voter).map(|l| l.member_id))
            .collect();
        learners.into_iter().for_each(|id| add_with(&mut known, &MembershipChange::Promote(id)));
        known
    }

    /// The fault atlas: whether a majority of whole disks is left in every membership there may be.
    fn leaves_majority(&self, asked: Option<&MembershipChange>, ruined: Option<NodeIndex>) -> bool {
        self.possible_memberships(asked).iter().all(|membership| {
            let voters = membership.voters().count();
            let whole = membership
                .voters()
                .filter(|&id| self.is_healthy(id) && ruined != Some(machine_of(id)))
                .count();
            voters > 0 && whole >= majority(voters)
        })
    }

    /// Whether this disk may be ruined.
    pub fn may_ruin(&self, node: NodeIndex) -> bool {
        self.leaves_majority(None, Some(node))
    }

    // ---- the operator ----------------------------------------------------------------------------------------------------

    /// Asks for some change that leaves a majority.
    pub fn ask_for_change(&mut self) {
        let change = match self.nemesis.rng.u8(0..5) {
            0 | 1 => self.draw_addition(),
            2 | 3 => self.draw_removal(),
            _ => self.draw_promotion(),
        };
        if let Some(change) = change
            && self.leaves_majority(Some(&change), None)
        {
            let directly = self.operator.rng.bool();
            self.ask(administration(change, directly));
        }
    }

    /// Soon the new leader is asked for something, preferably for what must be refused; or for `what`.
    pub fn plan_to_ask(&mut self, what: Option<Administration>) {
        if self.swarm.kinds.contains(&Kind::Change) && self.operator.rng.bool() {
            let after = self.operator.rng.u64(0..=self.swarm.election_timeout_us);
            self.plan(after, Event::Nemesis(Act::Ask(what)));
        }
    }

    /// An impatient operator: asks a leader that has hardly been elected.
    pub fn ask_after_election(&mut self, what: Option<Administration>) {
        if self.nemesis.is_restrained {
            return;
        }
        let change = match what.as_ref().map(change_of) {
            Some(None) => return what.into_iter().for_each(|what| self.ask(what)),
            Some(change) => change,
            None => self.draw_hopeless(),
        };
        let Some(change) = change.filter(|change| self.leaves_majority(Some(change), None)) else { return };
        if self.is_hopeless(&change) {
            self.mark(Mark::HopelessAsked);
        }
        let directly = self.operator.rng.u8(0..3) == 0;
        self.ask(what.unwrap_or_else(|| administration(change, directly)));
    }

    /// A change of which some member that cannot be reached is needed; none when there is no such change.
    fn draw_hopeless(&mut self) -> Option<MembershipChange> {
        let membership = self.oracle.membership().clone();
        let changes = membership.members.iter().flat_map(|m| {
            let promote = (!m.voter).then_some(MembershipChange::Promote(m.member_id));
            promote.into_iter().chain([MembershipChange::Remove(m.member_id)])
        });
        let hopeless: Vec<_> = changes.filter(|change| self.is_hopeless(change)).collect();
        (!hopeless.is_empty()).then(|| hopeless[self.operator.rng.usize(0..hopeless.len())].clone())
    }

    /// Whether the members that the change needs cannot all be reached by the leader, as things stand.
    fn is_hopeless(&self, change: &MembershipChange) -> bool {
        let (Some(leader), Ok(Some(new))) = (self.leader(), self.oracle.membership().with(change)) else {
            return false;
        };
        let is_reached = |id: MemberId| {
            let (node, cut) = (machine_of(id), &self.net.cut);
            let runs = self.nodes[node].process.is_some() && !self.nodes[node].is_stopped();
            node == leader || (runs && !cut[leader][node] && !cut[node][leader])
        };
        let (voters, reached) = (new.voters().count(), new.voters().filter(|&id| is_reached(id)).count());
        let is_needed = |id| matches!(change, MembershipChange::Promote(learner) if *learner == id);
        reached < majority(voters) || new.voters().any(|id| is_needed(id) && !is_reached(id))
    }

    /// Whether the member answered this leader, in this term, an append that was sent within the last election timeout:
    /// what the network saw, not what the leader believes.
    pub fn is_known_to_be_alive(&mut self, node: NodeIndex, id: MemberId, now: Time) -> bool {
        let election_timeout = Duration::from_micros(self.swarm.election_timeout_us);
        let process = self.process(node);
        let term = process.state.raft.term();
        id == process.state.raft.me()
            || (process.answered.get(&id))
                .is_some_and(|a| a.term == term && now <= a.sent_at + election_timeout)
    }

    /// A leader has taken a change: a majority of the voters after it must be alive, and a new voter must be.
    pub fn check_needed_are_alive(&mut self, node: NodeIndex, now: Time) {
        let raft = &self.process(node).state.raft;
        let (old, new) = (raft.committed_membership().clone(), raft.membership().clone());
        let voters: Vec<MemberId> = new.voters().collect();
        let alive: Vec<MemberId> =
            voters.iter().copied().filter(|&id| self.is_known_to_be_alive(node, id, now)).collect();
        assert!(
            alive.len() >= majority(voters.len()),
            "n{} took a change to the voters {voters:?}, of which only {alive:?} have answered it",
            node + 1
        );
        let promoted = voters.iter().find(|&&id| !old.is_voter(id) && !alive.contains(&id));
        assert!(promoted.is_none(), "n{} made a voter of {promoted:?}, which has not answered it", node + 1);
    }

    fn draw_addition(&mut self) -> Option<MembershipChange> {
        let membership = self.oracle.membership().clone();
        let was_member = |id| self.oracle.was_member(id);
        let joiner = self.nodes.iter().find(|m| !m.is_ruined && !was_member(m.id))?;
        let (id, own) = (joiner.id, machine_of(joiner.id));
        // A wiped machine comes back under its old name, once that is free.
        let is_free = |&node: &NodeIndex| {
            self.nodes[node].is_wiped && node != own && membership.by_name(&name(node)).is_none()
        };
        let home = (0..self.nodes.len()).find(is_free).unwrap_or(own);
        let promote = self.nemesis.rng.u8(0..4) > 0;
        let speaks = self.prepare_newcomer(own);
        Some(MembershipChange::Add(Member { promote, voter: false, ..member(id, home) }, Some(speaks)))
    }

    fn draw_removal(&mut self) -> Option<MembershipChange> {
        let membership = self.oracle.membership().clone();
        let gone = membership.members.iter().find(|m| !self.is_healthy(m.member_id)).map(|m| m.member_id);
        let leader = self.leader().map(|leader| self.nodes[leader].id);
        let any = membership.members[self.nemesis.rng.usize(0..membership.members.len())].member_id;
        let id = gone.unwrap_or(match (leader, self.nemesis.rng.u8(0..3)) {
            (Some(leader), 0) => leader,
            _ => any,
        });
        Some(MembershipChange::Remove(id))
    }

    fn draw_promotion(&mut self) -> Option<MembershipChange> {
        let membership = self.oracle.membership().clone();
        let learner = membership.members.iter().find(|m| !m.voter && self.is_healthy(m.member_id))?;
        Some(MembershipChange::Promote(learner.member_id))
    }

    /// Asks the leader to transfer its leadership, to somebody or to whoever is most advanced.
    pub fn ask_for_transfer(&mut self) {
        let voters = self.voters();
        let to = voters[self.nemesis.rng.usize(0..voters.len())];
        let to = self.nemesis.rng.bool().then_some(self.nodes[to].id);
        self.ask(Administration::Transfer(to));
    }

    /// Asks the leader, or anybody, who passes it on; sometimes once more, as if the first answer had been lost.
    fn ask(&mut self, what: Administration) {
        self.line(|| format!("the operator asks: {what:?}"));
        let times = if self.nemesis.rng.u8(0..4) == 0 { 2 } else { 1 };
        for _ in 0..times {
            let running: Vec<NodeIndex> = (0..self.nodes.len())
                .filter(|&node| self.nodes[node].process.is_some() && !self.nodes[node].is_stopped())
                .collect();
            if running.is_empty() {
                return;
            }
            let any = running[self.nemesis.rng.usize(0..running.len())];
            let leader = self.leader().filter(|leader| running.contains(leader));
            let node = leader.filter(|_| self.nemesis.rng.u8(0..3) > 0).unwrap_or(any);
            let patience_us = self.swarm.election_timeout_us * self.nemesis.rng.u64(1..=10);
            let raft = &self.process(node).state.raft;
            let knows = raft.leader().filter(|&leader| leader != raft.me());
            match knows.filter(|&id| raft.member(id).is_some()) {
                Some(id) => {
                    self.operator
                        .sent
                        .push(Sent { what: what.clone(), until: self.now + 2 * LONGEST_DELAY_US });
                    let request =
                        PeerRequest::Administer { what: what.clone(), remaining_ms: patience_us / 1_000 };
                    let timeout = Duration::from_micros(patience_us);
                    self.call(node, machine_of(id), request, Caller::Operator(what.clone()), timeout);
                }
                None => {
                    let asked = what.clone();
                    let mailbox = self.process(node).mailbox.clone();
                    let done =
                        leave(&mailbox, move |result| Done::Administer(AdminFor::Operator(asked), result));
                    self.administer(node, what.clone(), done, patience_us);
                }
            }
        }
    }

    /// The operator's request reaches a member over the network.
    pub fn handle_administer(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        call: Option<CallId>,
        what: Administration,
        remaining_ms: u64,
    ) {
        // In peace nobody changes anything: what is late is lost.
        if !self.nemesis.is_active() || self.nemesis.is_restrained {
            return;
        }
        let mailbox = self.process(node).mailbox.clone();
        let done = leave(&mailbox, move |result| Done::Administer(AdminFor::Peer(from, call), result));
        self.administer(node, what, done, remaining_ms * 1_000);
    }

    fn administer(
        &mut self,
        node: NodeIndex,
        what: Administration,
        done: dkv::node::Completion<AdminResult>,
        patience_us: u64,
    ) {
        self.step(node, |state, now| {
            let deadline = now + Duration::from_micros(patience_us);
            state.submit(Work::Administer { what, done }, Origin::Client, deadline, now);
        });
    }

    /// The operator hears what became of it.
    pub fn judge_administration(&mut self, what: &Administration, result: &AdminResult) {
        self.line(|| format!("the operator hears of {what:?}: {result:?}"));
        let mark = match (what, result) {
            (Administration::Change(_) | Administration::Remove(_), Ok(Administered::Changed(index))) => {
                let change = change_of(what).expect("a change");
                let entry = self.oracle.committed.get(*index as usize - 1);
                let membership = entry.and_then(|entry| entry.membership());
                let is_so = membership.is_some_and(|membership| match &change {
                    MembershipChange::Add(member, _) => membership.get(member.member_id).is_some(),
                    MembershipChange::Promote(id) => membership.is_voter(*id),
                    MembershipChange::Remove(id) => membership.get(*id).is_none(),
                });
                assert!(is_so, "P1: {change:?} is said to be done by entry {index}, which is {entry:?}");
                if let MembershipChange::Add(Member { member_id, promote: false, .. }, _) = change {
                    // Before anybody can have answered there.
                    self.plan_to_ask(Some(Administration::Change(MembershipChange::Promote(member_id))));
                }
                Mark::ChangeDone
            }
            (Administration::Transfer(_), Ok(Administered::TransferredTo(id))) => {
                assert!(self.oracle.has_led(machine_of(*id)), "{id} is said to lead and never did");
                Mark::TransferDone
            }
            (_, Ok(other)) => panic!("{other:?} is no answer to {what:?}"),
            (Administration::Remove(_), Err(failure)) if failure.kind == AdminFailureKind::NotLeader => {
                // As `Node::administer_through_leader` does: its successor removes it.
                self.plan_to_ask(Some(what.clone()));
                if !failure.message.contains("successor") {
                    return;
                }
                Mark::HandedOverToGo
            }
            (_, Err(failure)) => match failure.kind {
                AdminFailureKind::Conflict if change_of(what).is_some_and(|c| self.is_hopeless(&c)) => {
                    if self.now < self.operator.elected_at + 3 * self.swarm.election_timeout_us {
                        self.mark(Mark::HopelessRefusedByNewLeader);
                    }
                    Mark::HopelessRefused
                }
                AdminFailureKind::NotFound | AdminFailureKind::NotLeader => return,
                AdminFailureKind::Failed(FailureKind::Unavailable) => Mark::AdministrationTooEarly,
                AdminFailureKind::Failed(FailureKind::Unsupported) => Mark::NewcomerTooOld,
                AdminFailureKind::Failed(_) => Mark::AdministrationUnknown,
                _ => Mark::AdministrationRefused,
            },
        };
        self.mark(mark);
    }

    // ---- members that come -----------------------------------------------------------------------------------------------

    /// A member has found another one uninitialized and sends the genesis entry.
    pub fn send_genesis(&mut self, from: NodeIndex, to: NodeIndex) {
        let delay = self.net.bootstrap_delay(from, to);
        if let Some(delay) = delay {
            self.plan(delay, Event::Net(NetEvent::Initialization { to }));
        }
    }

    /// The genesis entry reaches a machine.
    pub fn be_initialized(&mut self, node: NodeIndex) {
        let machine = &mut self.nodes[node];
        if machine.is_initialized || machine.is_ruined {
            return;
        }
        machine.disk.initialize(&self.oracle.committed[0]);
        machine.disk.is_watched = self.swarm.disks_are_watched;
        machine.is_initialized = true;
        self.line(|| format!("n{} is initialized", node + 1));
        self.mark(Mark::JoinerInitialized);
        let id = self.nodes[node].id;
        if self.oracle.name_of(id).is_some_and(|known| known != name(node)) {
            self.mark(Mark::WipedReplaced);
        }
        self.start(node);
    }

    /// Gives every other member its replicator and its sender, unless it has them.
    pub fn ensure_peer_threads(&mut self, node: NodeIndex, membership: &Membership) {
        let me = self.nodes[node].id;
        for member in membership.members.iter().filter(|member| member.member_id != me) {
            let peer = machine_of(member.member_id);
            let process = self.process(node);
            process
                .replicators
                .entry(peer)
                .or_insert(Replicator::Asleep { until: u64::MAX, awaits: Awaits::Everything });
            process.senders.entry(peer).or_insert(Sender::Asleep { until: u64::MAX });
        }
    }

    // ---- members that go -------------------------------------------------------------------------------------------------

    /// The disk of a machine is lost.
    pub fn wipe(&mut self, node: NodeIndex) {
        let machine = &self.nodes[node];
        if machine.is_ruined || !machine.is_initialized || !self.may_ruin(node) {
            return;
        }
        self.line(|| format!("n{} is wiped", node + 1));
        self.crash(node, true);
        self.nodes[node].is_ruined = true;
        self.nodes[node].is_wiped = true;
        self.mark(Mark::Wiped);
    }

    /// A member learns that it was removed, and ends; somebody may start it again.
    pub fn end_removed(&mut self, node: NodeIndex) {
        self.line(|| format!("n{} was removed and ends", node + 1));
        self.mark(Mark::RemovedEnded);
        self.nodes[node].disk.stop();
        self.bury(node);
        if self.nemesis.is_active() && self.nemesis.rng.bool() {
            let for_us = self.disturbance();
            self.restart_after(node, for_us);
        } else {
            self.nodes[node].is_retired = true;
        }
    }

    /// Ends a member whose state machine says that it was removed. Whether it did.
    pub fn look_for_removal(&mut self, node: NodeIndex) -> bool {
        let me = self.nodes[node].id;
        let is_removed = self.process(node).kv.is_removed(me);
        if is_removed {
            self.end_removed(node);
        }
        is_removed
    }
}

/// How a change is asked for; a removal in one of two ways.
fn administration(change: MembershipChange, directly: bool) -> Administration {
    match change {
        MembershipChange::Remove(id) if !directly => Administration::Remove(id),
        change => Administration::Change(change),
    }
}

/// The change that is asked for.
fn change_of(what: &Administration) -> Option<MembershipChange> {
    match what {
        Administration::Change(change) => Some(change.clone()),
        Administration::Remove(id) => Some(MembershipChange::Remove(*id)),
        Administration::Transfer(_) => None,
    }
}

fn name(home: NodeIndex) -> String {
    format!("n{}", home + 1)
}

/// A member that lives under the name and addresses of a machine.
pub fn member(id: MemberId, home: NodeIndex) -> Member {
    let port = |n: u8| format!("{}:{n}", name(home));
    Member {
        node_id: name(home),
        member_id: id,
        raft_addr: port(1),
        http_addr: port(2),
        voter: true,
        promote: false,
    }
}
