//! Every kind of fault.

use std::process::Command;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillRandom,
    KillLeader,
    KillAll,
    KillRecovering,
    Pause,
    PauseLeader,
    RollingTerm,
    StarveCpu,
    BusyCpu,
    FewDescriptors,
    FullDisk,
    NoSpace,
    FailingSync,
    KilledSync,
    KilledWrite,
    SlowSync,
    Join,
    Remove,
    RemoveLeader,
    RemoveNeeded,
    ReplaceDead,
    Wipe,
    Transfer,
    BitRot,
    Isolate,
    IsolateLeader,
    Split,
    OneWay,
    Bridge,
    SomeLinks,
    Flap,
    Delay,
    LoseRequests,
    LoseReplies,
    Duplicate,
    HalfOpen,
    Reset,
    RealCut,
}

use Kind::*;

/// What is done to processes and disks.
pub const PROCESS_KINDS: [Kind; 24] = [
    KillRandom,
    KillLeader,
    KillAll,
    KillRecovering,
    Pause,
    PauseLeader,
    RollingTerm,
    StarveCpu,
    BusyCpu,
    FewDescriptors,
    FullDisk,
    NoSpace,
    FailingSync,
    KilledSync,
    KilledWrite,
    SlowSync,
    Join,
    Remove,
    RemoveLeader,
    RemoveNeeded,
    ReplaceDead,
    Wipe,
    Transfer,
    BitRot,
];

/// What is done between processes.
pub const NETWORK_KINDS: [Kind; 13] = [
    Isolate,
    IsolateLeader,
    Split,
    OneWay,
    Bridge,
    SomeLinks,
    Flap,
    Delay,
    LoseRequests,
    LoseReplies,
    Duplicate,
    HalfOpen,
    Reset,
];

/// Of these, what namespaces can do: all that is a cut.
pub const REAL_KINDS: [Kind; 7] = [Isolate, IsolateLeader, Split, OneWay, Bridge, SomeLinks, Flap];

/// Counted beside the others: whatever is cut in namespaces.
pub const BESIDE: [Kind; 1] = [RealCut];

/// What a round of the standard dose has in any case.
pub const ALWAYS: [Kind; 11] = [
    KillAll,
    KillRandom,
    KillLeader,
    KillRecovering,
    Pause,
    Join,
    Remove,
    RemoveNeeded,
    Wipe,
    Transfer,
    BitRot,
];

impl Kind {
    /// Its name in the report.
    pub fn label(self) -> &'static str {
        match self {
            KillRandom => "kill -9 of a node",
            KillLeader => "kill -9 of the leader",
            KillAll => "kill -9 of all",
            KillRecovering => "kill -9 during recovery",
            Pause => "SIGSTOP of a node",
            PauseLeader => "SIGSTOP of the leader",
            RollingTerm => "rolling SIGTERM",
            StarveCpu => "starved of CPU (5 ms of every 50)",
            BusyCpu => "busy CPUs",
            FewDescriptors => "few descriptors",
            FullDisk => "full disk (tmpfs)",
            NoSpace => "full disk (injected)",
            FailingSync => "failing fdatasync",
            KilledSync => "killed at fdatasync",
            KilledWrite => "killed at a write",
            SlowSync => "slow fdatasync",
            Join => "a node joins",
            Remove => "a member is removed",
            RemoveLeader => "the leader is removed",
            RemoveNeeded => "a member that is needed is to be removed",
            ReplaceDead => "a dead member is replaced by another",
            Wipe => "a member loses its data",
            Transfer => "the leadership is transferred",
            BitRot => "a bit flips while down",
            Isolate => "cut: one node",
            IsolateLeader => "cut: the leader",
            Split => "cut: two halves",
            OneWay => "cut: one way",
            Bridge => "cut: bridge",
            SomeLinks => "cut: some links",
            Flap => "flapping link",
            Delay => "delays",
            LoseRequests => "lost requests",
            LoseReplies => "lost replies",
            Duplicate => "doubled requests",
            HalfOpen => "half-open, delivered late",
            Reset => "connections reset",
            RealCut => "of the cuts, by network namespaces",
        }
    }

    /// What the machine must have for it.
    fn need(self) -> Option<Need> {
        match self {
            FullDisk => Some(Need::Mount),
            NoSpace | FailingSync | KilledSync | KilledWrite | SlowSync => Some(Need::Strace),
            FewDescriptors => Some(Need::Prlimit),
            RealCut => Some(Need::Namespaces),
            _ => None,
        }
    }

    /// Whether it cuts links.
    pub fn is_cut(self) -> bool {
        REAL_KINDS.contains(&self)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Mount,
    Strace,
    Prlimit,
    Namespaces,
}

/// What this machine allows, found out by trying.
pub struct Machine {
    missing: Vec<(Need, String)>,
}

impl Machine {
    /// Tries each need once.
    pub fn probe() -> Machine {
        let tries: [(Need, &str); 4] = [
            (
                Need::Mount,
                "d=$(mktemp -d) && mount -t tmpfs -o size=1m tmpfs $d && umount $d; e=$?; rmdir $d; exit $e",
            ),
            (
                Need::Strace,
                "sleep 30 & p=$!; timeout 1 strace -f -o /dev/null -e trace=fdatasync \
                 -e inject=fdatasync:error=EIO:when=1 -p $p; e=$?; kill $p; [ $e = 124 ] && exit 0; exit 1",
            ),
            (Need::Prlimit, "prlimit --nofile=64:64 true"),
            (
                Need::Namespaces,
                "ip netns add dkv-probe && nsenter --net=/run/netns/dkv-probe true; e=$?; ip netns del dkv-probe; exit $e",
            ),
        ];
        let missing = tries.into_iter().filter_map(|(need, script)| {
            let output = Command::new("sh").args(["-c", script]).output().expect("a shell");
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            (!output.status.success()).then_some((need, said))
        });
        Machine { missing: missing.collect() }
    }

    /// Why a kind cannot be had here.
    pub fn lacks(&self, kind: Kind) -> Option<&str> {
        let need = kind.need()?;
        self.missing.iter().find(|(n, _)| *n == need).map(|(_, why)| why.as_str())
    }
}
