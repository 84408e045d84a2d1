//! What a run leaves behind: the trace and its hash, how often the rare situations occurred, and the counters that prove
//! that something was run at all.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use dkv::raft::{FIRST_PROTOCOL, PROTOCOL};

use crate::swarm::mix;

/// Lines kept for a failure's report.
const LAST_LINES: usize = 200;

/// How the trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceMode {
    /// Only its hash: the usual case. A run that fails is run again with [`TraceMode::Last`].
    Hash,
    /// The last lines as well.
    Last,
    /// Every line goes to standard error at once.
    Print,
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Rare situations. A suite that never reaches one of them proves nothing about it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $($(#[$doc])* $name,)* }

        impl Mark {
            /// All of them.
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];
        }
    };
}

marks! {
    /// A leader was elected.
    Elected,
    /// ... while some log held entries that nobody had committed.
    ElectedWithUncommittedTail,
    /// ... behind the back of one that was cut off, and everybody died soon after.
    Deposed,
    /// A candidate did not win its term.
    ElectionFailed,
    /// A follower cut entries that conflicted with the leader's.
    ConflictTruncation,
    /// A leader had to look for where a peer's log agrees.
    Backtracked,
    /// Figure 8: an entry was cut that stood on a majority of disks without being committed.
    Figure8,
    /// Entries of an earlier term were committed together with one of the leader's own.
    OldTermCommitted,
    /// A pre-vote or vote was refused because a leader was alive.
    RefusedByStickiness,
    /// A vote was refused because the candidate's log was behind.
    RefusedLogBehind,
    /// A vote was refused because the vote of the term was given.
    RefusedAlreadyVoted,
    /// ... and it had been given before a restart.
    RefusedVotedBeforeCrash,
    /// A member crashed whose disk held a vote of its current term.
    VotePersistedThenCrash,
    /// A leader stepped down for want of a quorum.
    CheckQuorumStepDown,
    /// A leader stepped down at a higher term.
    HigherTermStepDown,
    /// A leader stepped down because its disk did not answer.
    DiskStallStepDown,
    /// A stalled disk answered again.
    DiskRecovered,
    /// An append was answered before the disk had its entries.
    HeldAppendAnsweredEarly,
    /// A member's queue for its disk was full.
    AppendNotTaken,
    /// A reply waited so long that the term had changed.
    ReplyOvertakenByTerm,
    /// A write was refused because too much waited for the disk, or for want of room in the idempotency table.
    Overloaded,
    /// A read failed.
    ReadFailed,
    /// A batch of writes was forwarded to the leader and answered.
    Forwarded,
    /// A peer asked the leader for a read index and was answered.
    ReadIndexAsked,
    /// A call to a former leader was cancelled.
    CallCancelled,
    /// A request of an old term arrived.
    OldTermRequest,
    /// A reply arrived after its caller had given up.
    ReplyTooLate,
    /// A request was delivered twice.
    Duplicated,
    /// A request was delivered once more much later.
    Replayed,
    /// A process died.
    ProcessDeath,
    /// The power failed.
    PowerLoss,
    /// ... on every member at once.
    AllCrashed,
    /// A crash hit in the middle of a write.
    CrashInWrite,
    /// A crash hit after a sync and before the core knew of it.
    CrashAfterSync,
    /// A process died while, or right after, it recovered its log.
    CrashInRecovery,
    /// Recovery cut a torn end off.
    TornTailCut,
    /// The power failed after a process had died and before the next one had recovered.
    PowerLossAfterDeath,
    /// A process ended itself because its disk was full.
    DiskFullStop,
    /// A process ended itself because a write or a sync failed.
    DiskFailedStop,
    /// A process ended itself because its disk was silent for 30 s.
    DiskDead,
    /// A process did not start because its disk failed or was full.
    StartFailed,
    /// A process did not start because what was synced had rotted.
    RotRefused,
    /// A bit that flipped in a copy of a disk was found.
    FlipRefused,
    /// A log was sealed.
    Sealed,
    /// A member was stopped and went on.
    Paused,
    /// A machine stood still, its clock included.
    Suspended,
    /// A timer was late while the other threads of its process were not.
    TimerStarved,
    /// Links came and went.
    Flapped,
    /// A member that is slow to apply was left alone for long.
    Stranded,
    /// A link became slow.
    Clogged,
    /// A member saved a snapshot of its state.
    SnapshotSaved,
    /// ... and could not, because its disk failed or was full.
    SnapshotFailed,
    /// A leader's snapshot was installed while a member wrote one of its own.
    SnapshotOvertaken,
    /// A member died while it gave its snapshot its name.
    CrashInSnapshot,
    /// Segments of the log were given up.
    LogCut,
    /// A file that had been a segment became one again.
    SegmentReused,
    /// A process started from a snapshot.
    StartedFromSnapshot,
    /// A process found a leader's snapshot and a log that does not lead there.
    LogBegunAnewAtStart,
    /// The newest snapshot had rotted, and the one before it stood in.
    FellBackToOlderSnapshot,
    /// What had rotted was given up before anybody needed it.
    RotOutlived,
    /// A leader's snapshot replaced the state of a follower.
    SnapshotInstalled,
    /// ... while entries were being applied.
    InstalledDuringApply,
    /// ... whose log was shorter.
    ShortLogDroppedAtInstall,
    /// ... whose log had another entry there, and was dropped as a whole.
    ConflictingLogDroppedAtInstall,
    /// ... whose log led there, and kept what it had after it.
    SuffixKeptAtInstall,
    /// A leader's snapshot was received and loaded when the log had everything in it already.
    InstallCameTooLate,
    /// A transfer went on where an earlier one had ended.
    TransferResumed,
    /// A transfer was given up because a newer snapshot came.
    TransferSuperseded,
    /// A transfer was given up.
    TransferFailed,
    /// Entries that had left memory were read for a peer.
    LogRead,
    /// ... and could not be: a failure of the disk, or the log was cut meanwhile.
    LogReadFailed,
    /// ... and the peer got a snapshot instead.
    SnapshotForUnreadable,
    /// Entries were applied that a start had left on the disk.
    AppliedFromDisk,
    /// A piece of a snapshot came whose content was committed here already.
    SnapshotNotNeeded,
    /// A member died while it received a snapshot.
    CrashInReceive,
    /// A write was unknown because a snapshot took the place of its entry.
    WriteUnknownBySnapshot,
    /// A change of the membership was done, and its operator heard so.
    ChangeDone,
    /// A change or a leadership transfer was refused.
    AdministrationRefused,
    /// ... because the leader was new, or transferred its leadership, or there was none.
    AdministrationTooEarly,
    /// ... because members that it needed could not be reached.
    HopelessRefused,
    /// ... by a leader that had been elected within the last three election timeouts.
    HopelessRefusedByNewLeader,
    /// A change was asked for that needed a member which could not be reached.
    HopelessAsked,
    /// A leader that was to go handed over first.
    HandedOverToGo,
    /// What became of it was unknown.
    AdministrationUnknown,
    /// A machine was sent the genesis entry and became a member.
    JoinerInitialized,
    /// A learner became a voter.
    LearnerPromoted,
    /// ... by itself, because it had caught up.
    PromotedByItself,
    /// A membership was cut off with its entry.
    MembershipRolledBack,
    /// A process started with a membership in force that was not committed.
    StartedWithUncommittedMembership,
    /// ... and did not have that member.
    StartedAbsentFromOwnMembership,
    /// A member that its own latest membership does not have campaigned.
    AbsentMemberCampaigned,
    /// A leader that was removed left office.
    RemovedLeaderStepDown,
    /// A removed member learned of it and ended.
    RemovedEnded,
    /// A removed member asked for votes and was told.
    RemovedRefused,
    /// One ran that had not heard of it, and in peace the terms stayed as they were.
    CalmBesideRemoved,
    /// A member was started with the next program.
    ProgramUpgraded,
    /// ... and another one with the program before, while the version was held.
    ProgramRolledBack,
    /// A leader raised the version.
    VersionRaised,
    /// A new member was refused, as its program does not read the version in force.
    NewcomerTooOld,
    /// A snapshot was installed that a member with another program had made.
    InstalledAcrossPrograms,
    /// The older program led members of the next one.
    OldProgramLed,
    /// A cluster that may raise its version had done so in the end.
    UpgradedInTheEnd,
    /// A member was asked for an operation of the next program, and its own program does not know it.
    OperationNotKnown,
    /// A write was refused because the version that it needs was not in force.
    Unsupported,
    /// An operation of the next program was done.
    NextOperationDone,
    /// A machine lost its disk.
    Wiped,
    /// ... and came back as another member under its old name.
    WipedReplaced,
    /// A leadership was transferred, and the operator heard so.
    TransferDone,
    /// A member campaigned because its leader transferred its leadership.
    TransferCampaign,
    /// A leadership transfer came to nothing, and the leader went on.
    TransferInVain,
    /// A write came to a leader that transferred its leadership.
    WriteDuringTransfer,
    /// A member was told of the death of its leader.
    LostLeader,
    /// ... and was elected within an election timeout.
    LostLeaderElectedFast,
    /// In peace the leader's process died and everybody was told: another leader was elected.
    FailedOver,
    /// ... within 70 ms.
    FailedOverFast,
    /// A member was told of a death when it did not follow that leader any more.
    LateWordRefused,
    /// ... because the same member had been elected again.
    LateWordOfTheSameLeader,
    /// A member took a word of a death after the dead process had been started again.
    WordAfterRestart,
    /// A member gave up a leader that lived.
    FalseAlarm,
    /// ... and its pre-vote was refused by a member that heard the leader.
    FalseAlarmRefused,
    /// ... and so did a majority: another leader was elected beside one that had not stepped down.
    DeposedByFalseAlarms,
    /// Minorities were told falsely in peace, and the terms stayed as they were.
    CalmUnderFalseAlarms,
    /// An answer to a client was lost.
    AnswerLost,
    /// A write was done.
    WriteDone,
    /// A read was done.
    ReadDone,
    /// A list was done.
    ListDone,
    /// A condition did not hold.
    PreconditionFailed,
    /// A range of several keys was removed.
    RangeDeleted,
    /// A range had too many keys to be removed.
    RangeTooLarge,
    /// Something was added to a key that was not there.
    CounterBegun,
    /// ... to one that was.
    CounterAddedTo,
    /// ... to one that holds no integer, which is refused.
    NoCounter,
    /// ... and would have left the 64 bits, which is refused.
    CounterOutOfRange,
    /// A retry was answered from the idempotency table.
    DedupHit,
    /// A transaction whose comparisons all held was done.
    TxnThen,
    /// A transaction was done, and a comparison of it did not hold.
    TxnElse,
    /// A repeated transaction was told that it is done, and no more: the table had no room for what it had read.
    TxnShort,
    /// A transaction was undone as a whole: it was to read a revision below the floor.
    TxnUndoneCompacted,
    /// ... or one that does not exist yet.
    TxnUndoneFuture,
    /// The idempotency table was full.
    DedupFull,
    /// A write whose outcome was unknown to its client took effect.
    UnknownTookEffect,
    /// A write whose outcome was unknown to its client never took effect.
    UnknownNeverTookEffect,
    /// A write was surely not done.
    WriteNotDone,
    /// A shape of the network with a connected majority stood, and writes went on.
    StoodWithMajority,
    /// A shape in which one member reaches a majority stood, and writes went on.
    StoodWithHub,
    /// A majority was left in peace while everybody else was not, and writes went on.
    StoodHostile,
    /// A lease was renewed.
    LeaseRenewed,
    /// ... or was over already.
    LeaseLost,
    /// A lease ended because its time was over.
    LeaseExpired,
    /// A quiet leader kept the cluster time going.
    TimeKept,
    /// A leader of a quiet store with leases died.
    LeaderDiedQuiet,
    /// A watcher was told changes.
    WatchTold,
    /// A watcher's connection broke off between two events,
    WatchBrokenBetween,
    /// ... or inside one.
    WatchBrokenInside,
    /// A watcher missed changes, and was told so.
    WatchCompacted,
    /// History was forgotten by a command.
    CompactedByHand,
}

/// What happens to operations of the next program.
pub const NEXT_MARKS: [Mark; 3] = [Mark::OperationNotKnown, Mark::Unsupported, Mark::NextOperationDone];

/// What happens to counters. A build with operations of the next program draws none.
const COUNTER_MARKS: [Mark; 4] =
    [Mark::CounterBegun, Mark::CounterAddedTo, Mark::NoCounter, Mark::CounterOutOfRange];

/// What was counted in one run, or in all.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub seeds: u64,
    pub events: u64,
    pub crashes: u64,
    pub checked_operations: u64,
    pub snapshots: u64,
    pub installs: u64,
    /// Seeds whose history the search for an order could not decide. The committed log has judged it nevertheless.
    pub undecided: u64,
    /// Seeds that ran twice and left the same trace.
    pub run_twice: u64,
    pub marks: BTreeMap<Mark, u64>,
}

impl Counters {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Counters) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.crashes += other.crashes;
        self.checked_operations += other.checked_operations;
        self.snapshots += other.snapshots;
        self.installs += other.installs;
        self.undecided += other.undecided;
        self.run_twice += other.run_twice;
        for (&mark, count) in &other.marks {
            *self.marks.entry(mark).or_default() += count;
        }
    }

    /// How fast that was, for people: nothing depends on it.
    pub fn speed(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let (seeds, events) = (self.seeds as f64 / seconds, self.events as f64 / seconds);
        format!("{seconds:.1} s: {seeds:.1} seeds/s, {events:.0} events/s\n")
    }

    /// How often a situation was reached.
    pub fn count(&self, mark: Mark) -> u64 {
        self.marks.get(&mark).copied().unwrap_or(0)
    }

    /// Marks that were never reached. Those of the next program's operations only a build with such operations reaches.
    pub fn missing(&self) -> Vec<Mark> {
        let can_be_reached = |mark: &Mark| match PROTOCOL > FIRST_PROTOCOL {
            true => !COUNTER_MARKS.contains(mark),
            false => !NEXT_MARKS.contains(mark),
        };
        let all = Mark::ALL.iter().copied().filter(can_be_reached);
        all.filter(|mark| !self.marks.contains_key(mark)).collect()
    }

    /// For people.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} seeds ({} of them twice), {} events, {} crashes, {} operations checked, {} snapshots, {} installs, {} searches undecided\n",
            self.seeds,
            self.run_twice,
            self.events,
            self.crashes,
            self.checked_operations,
            self.snapshots,
            self.installs,
            self.undecided
        );
        for mark in Mark::ALL {
            let count = self.count(*mark);
            writeln!(text, "  {:<32} {count:>9}", format!("{mark:?}")).expect("a string takes it");
        }
        text
    }
}

/// The report of one run. Shared with the caller, who reads it even when the run panics.
pub struct Report {
    mode: TraceMode,
    hash: u64,
    last: VecDeque<String>,
    pub counters: Counters,
}

impl Report {
    /// An empty one.
    pub fn new(mode: TraceMode) -> Report {
        Report {
            mode,
            hash: 0,
            last: VecDeque::new(),
            counters: Counters { seeds: 1, ..Counters::default() },
        }
    }

    /// Counts a rare situation.
    pub fn mark(&mut self, mark: Mark) {
        *self.counters.marks.entry(mark).or_default() += 1;
    }

    /// Makes a number part of what two runs of one seed must have in common.
    pub fn feed(&mut self, number: u64) {
        self.hash = mix(self.hash ^ number);
    }

    /// Adds a line; it is only made when somebody wants to see it.
    pub fn line(&mut self, now_us: u64, line: impl FnOnce() -> String) {
        match self.mode {
            TraceMode::Hash => {}
            TraceMode::Print => eprintln!("{:>10} {}", now_us, line()),
            TraceMode::Last => {
                if self.last.len() == LAST_LINES {
                    self.last.pop_front();
                }
                self.last.push_back(format!("{:>10} {}", now_us, line()));
            }
        }
    }

    /// The hash of all that happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
