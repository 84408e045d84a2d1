//! Exact effects: set up a [`Raft`], call one handler, compare what came out.

use std::time::Duration;

use super::*;

pub(super) fn config(me: u64) -> RaftConfig {
    RaftConfig {
        me: MemberId(me),
        election_timeout: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        append_hold: Duration::from_millis(50),
        disk_stall: Duration::from_millis(2_000),
        seed: me,
        max_append_bytes: 1 << 20,
        max_unpersisted_bytes: 16 << 20,
    }
}

/// Entry `1@1` of a cluster of the members 1 to `n`.
pub(super) fn found(n: u64) -> Entry {
    let members = (1..=n)
        .map(|id| Member {
            node_id: format!("n{id}"),
            member_id: MemberId(id),
            raft_addr: format!("127.0.0.1:{}", 18_080 + id),
            http_addr: format!("127.0.0.1:{}", 8_080 + id),
            voter: true,
        })
        .collect();
    let found =
        Found { cluster_id: ClusterId(1), settings: Settings::default(), members: Membership { members } };
    Entry::new(Position::new(1, 1), 0, &Payload::Found(found))
}

/// Member `me` of `n`, just founded: term 1, no vote, entry `1@1`.
pub(super) fn member(me: u64, n: u64) -> Raft {
    let hard_state = HardState { term: 1, voted_for: None };
    let restored = Restored { hard_state, entries: vec![found(n)], ..Restored::default() };
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
