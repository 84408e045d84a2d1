//! Exact effects: set up a [`Raft`], call one handler, compare what came out.

use std::time::Duration;

use super::*;

mod append;
mod progress;
mod vote;
mod wakes;

pub(super) fn config(me: u64) -> RaftConfig {
    RaftConfig {
        protocol: 1,
        hold_version: false,
        me: MemberId(me),
        election_timeout: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        append_hold: Duration::from_millis(50),
        disk_stall: Duration::from_millis(2_000),
        seed: me,
        max_append_bytes: 1 << 20,
        max_unpersisted_bytes: 16 << 20,
        max_log_memory_bytes: usize::MAX,
        snapshot_log_bytes: u64::MAX,
        snapshot_log_entries: u64::MAX,
    }
}

/// Entry `1@1` of a cluster of the members 1 to `n`.
pub(super) fn genesis(n: u64) -> Entry {
    let members = (1..=n)
        .map(|id| Member {
            node_id: format!("n{id}"),
            member_id: MemberId(id),
            raft_addr: format!("127.0.0.1:{}", 18_080 + id),
            http_addr: format!("127.0.0.1:{}", 8_080 + id),
            voter: true,
            promote: false,
        })
        .collect();
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(1),
        settings: Settings::default(),
        members: Membership { members },
        restored: None,
    };
    Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))
}

/// Member `me` of `n`, just initialized: term 1, no vote, entry `1@1`.
pub(super) fn member(me: u64, n: u64) -> Raft {
    let hard_state = HardState { term: 1, voted_for: None };
    let restored = Restored { hard_state, entries: vec![genesis(n)], ..Restored::default() };
    Raft::new(config(me), restored, Time(0))
}

/// The disk catches up at once.
pub(super) fn sync(raft: &mut Raft, now: Time) {
    if let Some(seq) = raft.poll_write().last_seq() {
        raft.handle_persisted(seq, now);
    }
}

fn ready<T: Reply>(raft: &Raft, waiting: AfterSync<T>, now: Time) -> T {
    match raft.settle(waiting, now) {
        Settled::Ready(reply) => reply,
        Settled::NotYet(_) => panic!("the reply still waits for the disk"),
    }
}

/// Delivers everything until nobody has anything to say at `now`.
fn exchange(members: &mut [Raft], now: Time) {
    loop {
        let mut is_quiet = true;
        for from in 0..members.len() {
            sync(&mut members[from], now);
            for to in 0..members.len() {
                let peer = members[to].me();
                let PollRpc::Send(rpc, ticket) = members[from].poll_rpc(peer, now) else { continue };
                is_quiet = false;
                let reply = match rpc {
                    RpcRequest::RequestVote(request) => {
                        let waiting = members[to].handle_request_vote(request, now);
                        sync(&mut members[to], now);
                        RpcReply::RequestVote(ready(&members[to], waiting, now))
                    }
                    RpcRequest::AppendEntries(request) => {
                        let waiting = members[to].handle_append_entries(request, now);
                        sync(&mut members[to], now);
                        RpcReply::AppendEntries(ready(&members[to], waiting, now))
                    }
                    RpcRequest::TimeoutNow(_) => unreachable!("nobody transfers here"),
                };
                members[from].handle_rpc_result(ticket, Ok(reply), now);
                members.iter().for_each(check);
            }
        }
        if is_quiet {
            return;
        }
    }
}

#[test]
fn three_members_elect_a_leader_commit_and_serve_a_read() {
    let mut members: Vec<Raft> = (1..=3).map(|me| member(me, 3)).collect();
    let now = members.iter().map(Raft::poll_timeout).min().unwrap();
    let first = (0..3).find(|&i| members[i].poll_timeout() == now).unwrap();
    members[first].handle_timeout(now);
    exchange(&mut members, now);
    assert!(members[first].is_leader());
    assert_eq!(members[first].term(), 2);
    assert_eq!(members[first].commit_index(), 2, "the no-op is committed");

    let position = members[first].propose(&Payload::Command(b"x".to_vec()), now).unwrap();
    let token = members[first].read_index(now).unwrap();
    exchange(&mut members, now);
    assert_eq!((position, members[first].commit_index()), (Position::new(3, 2), 3));
    assert_eq!(members[first].poll_reads(), vec![ReadDone { token, result: Ok(2) }]);
    let Some(Apply::Entries(entries)) = members[first].poll_apply() else { panic!("nothing to apply") };
    assert_eq!(entries.iter().map(Entry::index).collect::<Vec<_>>(), vec![1, 2, 3]);

    let later = now + Duration::from_millis(60);
    exchange(&mut members, later);
    assert!(members.iter().all(|m| m.commit_index() == 3), "a heartbeat carries the commit index");
}

#[test]
fn a_single_member_leads_and_commits_only_what_its_disk_holds() {
    let mut alone = member(1, 1);
    let now = alone.poll_timeout();
    alone.handle_timeout(now);
    assert_eq!(alone.role_kind(), RoleKind::Candidate, "not a leader before its own vote is durable");
    sync(&mut alone, now);
    assert!(alone.is_leader());
    assert_eq!(alone.commit_index(), 0);
    sync(&mut alone, now);
    assert_eq!(alone.commit_index(), 2);
}

// ---- everything that one call brought about, as lines -------------------------------------------------------------------

/// A member of three in term 4 with the log `1@1 2@4`, all of it durable.
fn follower() -> Raft {
    let hard_state = HardState { term: 4, voted_for: None };
    let second = Entry::new(Position::new(2, 4), 0, &Payload::Noop);
    let restored = Restored { hard_state, entries: vec![genesis(3), second], ..Restored::default() };
    Raft::new(config(1), restored, Time(0))
}

/// The same, asking for pre-votes at its first timeout.
fn pre_candidate() -> (Raft, Time) {
    let mut raft = follower();
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    raft.poll_notes();
    (raft, now)
}

/// The same with the pre-vote of member 2: a candidate of term 5 whose own vote is not yet durable.
fn candidate() -> (Raft, Time) {
    let (mut raft, now) = pre_candidate();
    let (_, ticket) = asked(&mut raft, 2, now);
    let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
    raft.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    raft.poll_notes();
    (raft, now)
}

/// The same with the vote of member 2: leads term 5, its no-op `3@5` queued for the disk.
fn leader() -> (Raft, Time) {
    let (mut raft, now) = candidate();
    sync(&mut raft, now);
    let (_, ticket) = asked(&mut raft, 2, now);
    let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
    raft.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    raft.poll_notes();
    (raft, now)
}

/// What the member sends to `peer` now.
fn asked(raft: &mut Raft, peer: u64, now: Time) -> (RpcRequest, Ticket) {
    match raft.poll_rpc(MemberId(peer), now) {
        PollRpc::Send(request, ticket) => (request, ticket),
        other => panic!("nothing to send to {peer}: {other:?}"),
    }
}

/// Role, term, vote, leader, log, commit and durable index in one line.
fn line(raft: &Raft) -> String {
    let id = |id: Option<MemberId>| id.map_or("-".to_string(), |id| format!("{id:?}"));
    let log: Vec<String> = raft.log().iter().map(|e| e.term().to_string()).collect();
    format!(
        "{}@{} vote {} leader {} log {} commit {} durable {}",
        raft.role_kind().as_str(),
        raft.term(),
        id(raft.hard_state().voted_for),
        id(raft.leader()),
        log.join(" "),
        raft.commit_index(),
        raft.persisted_index()
    )
}

/// Makes one call. Returns its result and, as lines, everything that came out: the state if it changed, whether the
/// timer moved, every write, every decision, every read that was decided.
fn effects<R>(raft: &mut Raft, call: impl FnOnce(&mut Raft) -> R) -> (R, Vec<String>) {
    raft.poll_write();
    raft.poll_notes();
    let (before, timeout, line_before) = (raft.watermarks(), raft.poll_timeout(), line(raft));
    let result = call(raft);
    check(raft);
    check_step(&before, raft);
    let mut lines = Vec::new();
    if line(raft) != line_before {
        lines.push(line(raft));
    }
    if raft.poll_timeout() != timeout {
        lines.push("timer moved".to_string());
    }
    for write in raft.poll_write().writes {
        lines.push(match write.op {
            WriteOp::HardState(h) => format!("writes term {} vote {:?}", h.term, h.voted_for),
            WriteOp::Entries(entries) => {
                let entries: Vec<String> = entries.iter().map(|e| e.position().to_string()).collect();
                format!("writes {}", entries.join(" "))
            }
            WriteOp::Reset(position) => format!("writes reset {position}"),
        });
    }
    lines.extend(raft.poll_notes().iter().map(|note| format!("{:?}", note.what)));
    lines.extend(raft.poll_reads().iter().map(|read| format!("read {:?}", read.result)));
    (result, lines)
}

#[test]
fn propose_is_refused_while_the_followers_disks_are_far_behind() {
    let mut members: Vec<Raft> = (1..=3)
        .map(|me| {
            let hard_state = HardState { term: 1, voted_for: None };
            let restored = Restored { hard_state, entries: vec![genesis(3)], ..Restored::default() };
            Raft::new(RaftConfig { max_unpersisted_bytes: 1_000, ..config(me) }, restored, Time(0))
        })
        .collect();
    let now = members[0].poll_timeout();
    members[0].handle_timeout(now);
    exchange(&mut members, now);
    assert_eq!((members[0].is_leader(), members[0].uncommitted_bytes()), (true, 0));
    let (leader, mut refused) = (&mut members[0], None);
    for _ in 0..100 {
        // Its own disk keeps up; nobody else's answers.
        sync(leader, now);
        if let Err(e) = leader.propose(&Payload::Command(vec![0; 67]), now) {
            refused = Some(e);
            break;
        }
    }
    assert_eq!(refused, Some(ProposeError::Overloaded { waiting_bytes: 4_000 }));
    exchange(&mut members, now);
    assert_eq!(members[0].uncommitted_bytes(), 0);
    members[0].propose(&Payload::Command(vec![0; 67]), now).expect("room again");
}
