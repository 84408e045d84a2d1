//! What must hold of the whole cluster, checked after every step from outside: the oracle sees every log, every disk and
//! every message, remembers all that was ever committed, and panics when a promise is broken. Labels as in
//! `src/raft/invariants.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use dkv::raft::{
    AppendEntriesReply, AppendEntriesRequest, AppendOutcome, ClusterId, Entry, EntryKind, FIRST_PROTOCOL,
    Genesis, HardState, Index, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Log, LogRead,
    MemberId, Membership, Payload, Position, Protocol, Raft, RequestVoteReply, RequestVoteRequest, RoleKind,
    RpcRequest, Term, TimeoutNowReply, Watermarks, check_version, majority,
};
use dkv::store::{Kv, needed_protocol};

use crate::disk::MachineDisk;
use crate::members::{machine_of, member};
use crate::report::Mark;
use crate::swarm::Swarm;
use crate::world::NodeIndex;

/// All that was ever true of the cluster.
pub struct Oracle {
    /// The last committed membership.
    membership: Arc<Membership>,
    /// Every membership that was ever in a log, by its entry.
    memberships: BTreeMap<(Index, Term), Arc<Membership>>,
    /// Every entry that was ever committed, entry 1 first.
    pub committed: Vec<Entry>,
    /// The term whose leader committed each of them.
    committed_in: Vec<Term>,
    leaders: BTreeMap<Term, NodeIndex>,
    /// Every entry that was ever in a log, with the term of the one before it.
    appended: BTreeMap<(Index, Term), (Entry, Term)>,
    /// The state hash after each applied index.
    state_hashes: BTreeMap<Index, u128>,
    /// The terms of each member's log, as seen last.
    logs: Vec<Vec<Term>>,
    /// Where each member's log began then.
    bases: Vec<Index>,
    hard_states: Vec<HardState>,
    /// What each member's program speaks.
    pub protocols: Vec<Protocol>,
    /// The versions that came into force: the entry that brought each one, and when it was committed.
    versions: Vec<(Index, Protocol, u64)>,
    /// The highest version that a command which came into any log needs.
    needed: Protocol,
}

impl Oracle {
    /// Of a cluster that has done nothing.
    pub fn new(machines: usize) -> Oracle {
        Oracle {
            membership: Arc::default(),
            memberships: BTreeMap::new(),
            committed: Vec::new(),
            committed_in: Vec::new(),
            leaders: BTreeMap::new(),
            appended: BTreeMap::new(),
            state_hashes: BTreeMap::new(),
            logs: vec![Vec::new(); machines],
            bases: vec![0; machines],
            hard_states: vec![HardState::default(); machines],
            protocols: vec![1; machines],
            versions: Vec::new(),
            needed: FIRST_PROTOCOL,
        }
    }

    /// Entry `1@1`, committed by initialization.
    pub fn genesis_entry(&mut self, swarm: &Swarm) -> Entry {
        let members = (0..swarm.voters).map(|node| member(MemberId(node as u64 + 1), node)).collect();
        let genesis = Genesis {
            protocol: self.protocols[..swarm.voters]
                .iter()
                .copied()
                .min()
                .expect("there are initial members"),
            cluster_id: ClusterId(swarm.seed),
            settings: swarm.settings.clone(),
            members: Membership { members },
            restored: None,
        };
        let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
        self.membership = entry.membership().expect("a genesis entry has one").clone();
        self.memberships.insert((1, 1), self.membership.clone());
        self.take_version(&entry, 0);
        self.committed.push(entry.clone());
        self.committed_in.push(1);
        entry
    }

    /// The last committed membership.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Memberships that somebody once appended after what is committed, and that may come back.
    pub fn uncommitted_memberships(&self) -> impl Iterator<Item = &Arc<Membership>> {
        let from = (self.commit_index() + 1, 0);
        self.memberships.range(from..).map(|(_, membership)| membership)
    }

    /// Whether it was ever in a membership.
    pub fn was_member(&self, id: MemberId) -> bool {
        let committed = self.memberships.range(..=(self.commit_index(), Term::MAX));
        committed.into_iter().any(|(_, membership)| membership.get(id).is_some())
    }

    /// The name of a member of any membership.
    pub fn name_of(&self, id: MemberId) -> Option<&str> {
        self.memberships.values().find_map(|m| m.get(id)).map(|member| member.node_id.as_str())
    }

    /// Whether it ever led.
    pub fn has_led(&self, node: NodeIndex) -> bool {
        self.leaders.values().any(|&leader| leader == node)
    }

    /// Whether an entry that raises the version was ever in a log.
    pub fn was_raised(&self) -> bool {
        self.appended.values().any(|(entry, _)| entry.kind() == EntryKind::Version)
    }

    /// A committed entry may bring a version into force.
    fn take_version(&mut self, entry: &Entry, now_us: u64) {
        self.versions.extend(entry.version().map(|version| (entry.index(), version, now_us)));
    }

    /// The version in force for what stands at `index`, when all that was ever committed is in.
    pub fn version_at(&self, index: Index) -> Protocol {
        let before = self.versions.iter().filter(|(from, ..)| *from <= index);
        before.map(|(_, version, _)| *version).max().unwrap_or(FIRST_PROTOCOL)
    }

    /// Since when this version or a higher one is in force.
    pub fn in_force_since(&self, wanted: Protocol) -> Option<u64> {
        let enough = self.versions.iter().filter(|(_, version, _)| *version >= wanted);
        enough.map(|(.., since)| *since).min()
    }

    /// Index of the last entry that was ever committed.
    pub fn commit_index(&self) -> Index {
        self.committed.len() as Index
    }

    /// A process begins with what recovery found.
    pub fn started(&mut self, node: NodeIndex, raft: &Raft) {
        let _lost_in_the_crash = self.check_log(node, raft);
    }

    /// After every step of a core: I8, I9, I10, I14.
    pub fn observe(
        &mut self,
        node: NodeIndex,
        raft: &Raft,
        before: &Watermarks,
        after: &Watermarks,
        disks: &[&MachineDisk],
        now_us: u64,
    ) -> Vec<Mark> {
        let mut marks = Vec::new();
        if before.queued_seq != after.queued_seq {
            for cut in self.check_log(node, raft) {
                let voters: Vec<NodeIndex> = self.membership.voters().map(machine_of).collect();
                let holders =
                    voters.iter().filter(|&&n| disks[n].durable().term_at(cut.index) == Some(cut.term));
                if holders.count() >= majority(voters.len()) {
                    marks.push(Mark::Figure8);
                }
            }
        }
        let leads_anew =
            after.role == RoleKind::Leader && (before.role, before.term) != (after.role, after.term);
        if leads_anew {
            self.check_new_leader(node, raft);
            // The new leader's no-op is no such entry.
            let tail =
                |(n, log): (NodeIndex, &Vec<Term>)| log.len() > self.committed.len() + usize::from(n == node);
            if self.logs.iter().enumerate().any(tail) {
                marks.push(Mark::ElectedWithUncommittedTail);
            }
        }
        if before.role == RoleKind::Candidate
            && (after.term > before.term || after.role == RoleKind::Follower)
        {
            marks.push(Mark::ElectionFailed);
        }
        for index in before.committed.index + 1..=after.committed.index {
            let Some(entry) = &entry_of(&self.appended, raft.log(), index) else {
                assert!(
                    index <= raft.snapshot().last.index && index <= self.commit_index(),
                    "n{} has committed {index}, which neither its log nor a snapshot holds",
                    node + 1
                );
                continue;
            };
            if let Some(known) = self.committed.get(index as usize - 1) {
                assert_eq!(
                    known,
                    entry,
                    "I7: n{} commits another entry {index} than was committed",
                    node + 1
                );
                continue;
            }
            self.check_durable_on_quorum(entry, raft.membership(), disks);
            if let Some(membership) = entry.membership() {
                marks.extend(self.take_membership(membership));
            }
            self.take_version(entry, now_us);
            self.committed.push(entry.clone());
            self.committed_in.push(after.term);
            if entry.term() < after.term {
                marks.push(Mark::OldTermCommitted);
            }
        }
        let version = self.version_at(self.commit_index());
        assert!(
            self.needed <= version,
            "P13: n{} has a command that needs version {}, and version {version} is in force",
            node + 1,
            self.needed
        );
        marks
    }

    /// I9, log matching, by induction: an index and a term stand for one entry after one other, in every log ever. What
    /// was cut since the last look comes back.
    fn check_log(&mut self, node: NodeIndex, raft: &Raft) -> Vec<Position> {
        let log = raft.log();
        let seen = &mut self.logs[node];
        let mut cut = Vec::new();
        // What the log has given up is in a snapshot: as it was committed.
        let base = log.base();
        if self.bases[node] != base.index {
            let known = self.committed.get((base.index as usize).wrapping_sub(1)).map(Entry::position);
            assert!(
                base.index == 0 || known == Some(base),
                "n{} has a snapshot for its log up to {base}, committed is {known:?}",
                node + 1
            );
            for entry in &self.committed[..base.index as usize] {
                let (at, term) = (entry.index() as usize - 1, entry.term());
                match seen.get_mut(at) {
                    None => seen.push(term),
                    Some(seen) if *seen == term => {}
                    Some(seen) => {
                        cut.push(Position::new(entry.index(), *seen));
                        *seen = term;
                    }
                }
            }
            self.bases[node] = base.index;
        }
        while seen.len() as Index > base.index
            && let Some(&term) = seen.last()
            && log.term_at(seen.len() as Index) != Some(term)
        {
            cut.push(Position::new(seen.len() as Index, term));
            seen.pop();
        }
        for index in seen.len() as Index + 1..=log.last_index() {
            let entry = entry_of(&self.appended, log, index).expect("what is on a disk was appended");
            let before = log.term_at(index - 1).expect("within the log");
            if entry.kind() == EntryKind::Command {
                self.needed = self.needed.max(needed_protocol(entry.payload()));
            }
            let known = self.appended.entry((index, entry.term())).or_insert_with(|| (entry.clone(), before));
            assert!(
                known.0 == entry && known.1 == before,
                "I9: n{} has {entry:?} after a term {before}, elsewhere {:?} stands after a term {}",
                node + 1,
                known.0,
                known.1
            );
            if let Some(version) = entry.version() {
                let speaks = self.protocols[node];
                assert!(
                    check_version(version, speaks).is_ok(),
                    "P13: {entry:?} of version {version} is in the log of n{}, which speaks {speaks}",
                    node + 1
                );
            }
            seen.push(entry.term());
            if let Some(membership) = entry.membership() {
                self.memberships.entry((index, entry.term())).or_insert_with(|| membership.clone());
            }
        }
        cut
    }

    /// I8, one leader per term, and I10, leader completeness: what an earlier term's leader has committed is in its log. (A
    /// leader of an old term that comes late may know less.)
    fn check_new_leader(&mut self, node: NodeIndex, raft: &Raft) {
        let known = *self.leaders.entry(raft.term()).or_insert(node);
        assert!(known == node, "I8: n{} and n{} both lead term {}", known + 1, node + 1, raft.term());
        let earlier = self.committed_in.iter().map(|&term| term < raft.term());
        for entry in
            self.committed.iter().zip(earlier).filter_map(|(entry, earlier)| earlier.then_some(entry))
        {
            assert!(
                entry.index() <= raft.snapshot().last.index || raft.log().holds(entry),
                "I10: n{} leads term {} without the committed {entry:?}",
                node + 1,
                raft.term()
            );
        }
    }

    /// Entries that are not in memory are read back as they were appended, committed or not.
    pub fn check_log_read(&self, node: NodeIndex, wanted: &LogRead, entries: &[Entry]) {
        let Position { index: from, term } = wanted.from;
        let known =
            (from..=wanted.through).map(|index| self.appended.get(&(index, term)).map(|known| &known.0));
        let is_right = entries.iter().map(Some).zip(known).all(|(read, known)| read == known);
        let count = wanted.through + 1 - from;
        assert!(
            is_right && (1..=count).contains(&(entries.len() as u64)),
            "n{} was asked for {wanted:?} and reads {entries:?} from its log, which was not appended so",
            node + 1
        );
    }

    /// P1: what counts as committed is on the disks of a majority, whatever the members believe.
    /// The membership in force when it is committed decides.
    fn check_durable_on_quorum(&self, entry: &Entry, membership: &Membership, disks: &[&MachineDisk]) {
        let voters: Vec<NodeIndex> = membership.voters().map(machine_of).collect();
        let holders = voters.iter().filter(|&&node| disks[node].durable().holds(entry)).count();
        assert!(
            holders >= majority(voters.len()),
            "I14: {entry:?} counts as committed, but is durable on {holders} of {} disks",
            voters.len()
        );
    }

    /// A membership is committed: it differs from the one before by one voter at most, so majorities of both overlap.
    fn take_membership(&mut self, new: &Arc<Membership>) -> Option<Mark> {
        let old = std::mem::replace(&mut self.membership, new.clone());
        let came: Vec<MemberId> = new.voters().filter(|&id| !old.is_voter(id)).collect();
        let went: Vec<MemberId> = old.voters().filter(|&id| !new.is_voter(id)).collect();
        assert!(came.len() + went.len() <= 1, "the voters change from {old:?} to {new:?} at once");
        (!came.is_empty()).then_some(Mark::LearnerPromoted)
    }

    /// I11: the state is a function of the applied index; and only what is committed is applied.
    pub fn check_applied(&mut self, node: NodeIndex, kv: &Kv) {
        let applied = kv.applied();
        let committed = self.committed.get(applied.index as usize - 1).map(Entry::position);
        assert!(committed == Some(applied), "n{} applied {applied}, committed is {committed:?}", node + 1);
        let hash = kv.state_hash();
        let known = *self.state_hashes.entry(applied.index).or_insert(hash);
        assert!(known == hash, "I11: n{} has another state than others at {applied}", node + 1);
    }

    /// I1 and I2 on the disk: term and vote never go back, and a vote once given stays.
    pub fn check_durable(&mut self, node: NodeIndex, disk: &MachineDisk) {
        if !disk.is_watched {
            return;
        }
        let (old, new) = (self.hard_states[node], disk.durable().hard_state);
        assert!(
            new.term >= old.term,
            "I1: the durable term of n{} fell from {} to {}",
            node + 1,
            old.term,
            new.term
        );
        assert!(
            new.term > old.term || old.voted_for.is_none() || new.voted_for == old.voted_for,
            "I2: the durable vote of n{} changed in term {} from {:?} to {:?}",
            node + 1,
            new.term,
            old.voted_for,
            new.voted_for
        );
        self.hard_states[node] = new;
    }

    // ---- I12: nothing leaves before the disk holds what it vouches for ---------------------------------------------------

    /// A request leaves.
    pub fn check_request(&self, request: &RpcRequest, disk: &MachineDisk) {
        let durable = disk.durable().hard_state;
        match request {
            RpcRequest::RequestVote(r) if r.pre_vote => {}
            RpcRequest::RequestVote(r) => check_vote(durable, r.term, r.candidate, "asks for votes"),
            RpcRequest::AppendEntries(r) => {
                assert!(durable.term >= r.term, "I12: leads term {}, durable is {durable:?}", r.term);
            }
            RpcRequest::TimeoutNow(r) => {
                assert!(durable.term >= r.term, "I12: transfers in term {}, durable is {durable:?}", r.term);
            }
        }
    }

    /// A piece of a snapshot leaves.
    pub fn check_piece(&self, request: &InstallSnapshotRequest, disk: &MachineDisk) {
        let durable = disk.durable();
        assert!(durable.hard_state.term >= request.term, "I12: sends a snapshot before its term is durable");
        assert!(
            durable.snapshot.index >= request.last.index,
            "I12: sends a snapshot through {}, durable is one through {}",
            request.last,
            durable.snapshot
        );
        let known = self.committed.get(request.last.index as usize - 1).map(Entry::position);
        assert!(known == Some(request.last), "a snapshot through {}, committed is {known:?}", request.last);
    }

    /// The answer to a leadership transfer leaves.
    pub fn check_timeout_now_reply(&self, reply: &TimeoutNowReply, disk: &MachineDisk) {
        let durable = disk.durable().hard_state;
        assert!(durable.term >= reply.term, "I12: answers {reply:?}, durable is {durable:?}");
    }

    /// The answer to a piece of a snapshot leaves.
    pub fn check_install_reply(&self, reply: &InstallSnapshotReply, disk: &MachineDisk) {
        let durable = disk.durable();
        assert!(
            durable.hard_state.term >= reply.term,
            "I12: answers {reply:?}, durable is {:?}",
            durable.hard_state
        );
        if let InstallOutcome::Holds(index) = reply.outcome {
            let committed = self.committed.get((index as usize).wrapping_sub(1));
            assert!(
                index == 0 || committed.is_some_and(|entry| durable.holds(entry)),
                "I12: claims to hold what is committed through {index}, the disk ends at {}",
                durable.last()
            );
        }
    }

    /// The answer to a vote leaves.
    pub fn check_vote_reply(
        &self,
        request: &RequestVoteRequest,
        reply: &RequestVoteReply,
        disk: &MachineDisk,
    ) {
        let durable = disk.durable().hard_state;
        match (request.pre_vote, reply.granted) {
            (true, true) => {}
            (false, true) => check_vote(durable, request.term, request.candidate, "grants a vote"),
            (_, false) => {
                assert!(durable.term >= reply.term, "I12: answers {reply:?}, durable is {durable:?}");
            }
        }
    }

    /// The answer to an append leaves.
    pub fn check_append_reply(
        &self,
        request: &AppendEntriesRequest,
        reply: &AppendEntriesReply,
        disk: &MachineDisk,
    ) {
        let durable = disk.durable();
        assert!(
            durable.hard_state.term >= reply.term,
            "I12: answers {reply:?}, durable is {:?}",
            durable.hard_state
        );
        let AppendOutcome::Accepted { match_index, .. } = reply.outcome else { return };
        let promised = match match_index.checked_sub(request.prev.index) {
            Some(0) => Some(request.prev.term),
            Some(nth) => request.entries.get(nth as usize - 1).map(Entry::term),
            None => durable.term_at(match_index),
        };
        let held = match match_index {
            // Nothing but what was committed is in a snapshot.
            index if index < durable.snapshot.index && index > 0 => {
                self.committed.get(index as usize - 1).map(Entry::term)
            }
            index => durable.term_at(index),
        };
        let promised = promised.or(held);
        assert!(
            held.is_some() && held == promised,
            "I12: acknowledges {match_index} of {request:?}, the disk ends at {}",
            durable.last()
        );
    }
}

fn check_vote(durable: HardState, term: Term, candidate: MemberId, what: &str) {
    assert!(
        durable.term > term || (durable.term == term && durable.voted_for == Some(candidate)),
        "I12: {what} for {candidate} in term {term}, durable is {durable:?}"
    );
}

/// The entry of this log: in memory, or as it was appended, for what a start has left on the disk.
fn entry_of(appended: &BTreeMap<(Index, Term), (Entry, Term)>, log: &Log, index: Index) -> Option<Entry> {
    let is_left = (log.first_index()..=log.released()).contains(&index);
    let term = log.term_at(index).filter(|_| is_left);
    let known = || appended.get(&(index, term?)).map(|(entry, _)| entry);
    log.get(index).or_else(known).cloned()
}
