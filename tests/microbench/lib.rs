//! What the benchmarks share: a put as the client port makes it, and a core of one member that has elected itself.

#![forbid(unsafe_code)]

use std::time::Duration;

use dkv::raft::{
    Apply, ClusterId, Entry, Genesis, HardState, Member, MemberId, Membership, Payload, Position, Raft,
    RaftConfig, Restored, Settings, Time,
};
use dkv::store::{Command, Op};

/// A put of a 256-byte value under a 16-byte key.
pub fn put(number: u64) -> Command {
    let op = Op::put(format!("{number:016}").into_bytes(), vec![number as u8; 256]);
    Command { op, condition: None, idempotency: None, wall_ms: 1_700_000_000_000, actor: String::new() }
}

/// A cluster of one member, which leads.
pub struct Single {
    /// The rules.
    pub raft: Raft,
    now: Time,
}

impl Single {
    /// Elects the member.
    pub fn new() -> Single {
        let ms = Duration::from_millis;
        let member = Member {
            member_id: MemberId(1),
            node_id: "n1".into(),
            raft_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
            voter: true,
            promote: false,
        };
        let genesis = Genesis {
            cluster_id: ClusterId(7),
            settings: Settings::default(),
            restored: None,
            protocol: 1,
            members: Membership { members: vec![member] },
        };
        let entries = vec![Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))];
        let hard_state = HardState { term: 1, voted_for: None };
        let restored = Restored { hard_state, entries, ..Restored::default() };
        let config = RaftConfig {
            me: MemberId(1),
            election_timeout: ms(300),
            heartbeat: ms(50),
            append_hold: ms(50),
            disk_stall: ms(2_000),
            seed: 1,
            max_append_bytes: 1 << 20,
            max_unpersisted_bytes: 16 << 20,
            max_log_memory_bytes: 8 << 20,
            snapshot_log_bytes: u64::MAX,
            snapshot_log_entries: u64::MAX,
            protocol: 1,
            hold_version: false,
        };
        let mut single = Single { raft: Raft::new(config, restored, Time(0)), now: Time(0) };
        while !single.raft.is_leader() {
            single.now = single.raft.poll_timeout();
            single.raft.handle_timeout(single.now);
            single.finish();
        }
        single
    }

    /// Proposes a command; it is committed and applied by the next [`finish`](Single::finish).
    pub fn propose(&mut self, command: dkv::raft::Draft) {
        self.raft.propose(command, self.now).expect("it leads");
    }

    /// The disk and the state machine do what they are given. Returns the number of entries that were applied.
    pub fn finish(&mut self) -> usize {
        while let Some(seq) = self.raft.poll_write().last_seq() {
            self.raft.handle_persisted(seq, self.now);
        }
        let mut applied = 0;
        while let Some(Apply::Entries(entries)) = self.raft.poll_apply() {
            applied += entries.len();
            let last = entries.last().expect("never empty").index();
            self.raft.handle_applied(last);
        }
        let _ = self.raft.poll_notes();
        applied
    }
}

impl Default for Single {
    fn default() -> Self {
        Single::new()
    }
}
