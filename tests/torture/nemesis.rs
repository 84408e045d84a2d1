//! What is done to processes and disks.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::cluster::{Cluster, wait_for};
use super::inject::Injection;
use super::kind::{ALWAYS, Kind};
use super::operator::Operator;
use super::plan::RoundPlan;
use super::report::Report;
use super::support::cluster::Connection;

/// How much longer than its time a round may take, for the sake of what it must have had.
const OVERTIME: Duration = Duration::from_secs(20);

/// When a round ends.
pub struct Clock<'a> {
    /// Not before.
    pub end: Instant,
    /// Set when it has ended.
    pub over: &'a AtomicBool,
    /// Set when somebody wants the run to end: then it ends before its time.
    pub interrupted: &'a AtomicBool,
}

impl Clock<'_> {
    /// Waits; false when the round is over.
    pub fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.over.load(Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        false
    }
}

/// Does one thing after the other to the members until the round's time is over and everything was done that it must
/// have; then says that it is over. Returns what must not have happened.
pub fn run(
    plan: &RoundPlan,
    cluster: &mut Cluster,
    operator: &mut Operator,
    clock: &Clock,
    report: &Report,
) -> Vec<String> {
    let mut nemesis = Nemesis {
        cluster,
        operator,
        clock,
        report,
        rng: Rng::with_seed(plan.seed ^ 0x6b69_6c6c),
        violations: Vec::new(),
    };
    // What could not be done at once comes round again.
    let first = &plan.process[..plan.first];
    let mut owed: Vec<Kind> = ALWAYS.into_iter().filter(|kind| first.contains(kind)).collect();
    for (n, &kind) in plan.process.iter().cycle().enumerate() {
        let now = Instant::now();
        let is_due = n >= plan.first && now >= clock.end;
        if is_due && (owed.is_empty() || now >= clock.end + OVERTIME) || clock.interrupted.load(Relaxed) {
            break;
        }
        if is_due && !owed.contains(&kind) {
            continue;
        }
        clock.pause(Duration::from_millis(nemesis.rng.u64(100..1_200)));
        match nemesis.act(kind) {
            Ok(()) => {
                owed.retain(|&other| other != kind);
                report.installed(kind);
            }
            Err(why) => report.skipped(kind, &why),
        }
        nemesis.restore();
        if !nemesis.violations.is_empty() {
            break;
        }
    }
    clock.over.store(true, Relaxed);
    nemesis.violations
}

pub struct Nemesis<'a> {
    pub cluster: &'a mut Cluster,
    pub operator: &'a mut Operator,
    pub clock: &'a Clock<'a>,
    pub report: &'a Report,
    pub rng: Rng,
    pub violations: Vec<String>,
}

impl Nemesis<'_> {
    /// Does it; an error says why it could not be done.
    fn act(&mut self, kind: Kind) -> Result<(), String> {
        let running = self.cluster.running();
        let any = running[self.rng.usize(0..running.len())];
        match kind {
            Kind::KillRandom => self.kill_and_restart(any),
            Kind::KillLeader => {
                let leader = self.leader()?;
                self.kill_and_restart(leader);
            }
            Kind::KillAll => {
                self.cluster.running().into_iter().for_each(|n| self.cluster.kill(n));
                self.wait(0, 400);
            }
            Kind::KillRecovering => self.kill_recovering(any),
            Kind::Pause => self.pause(any),
            Kind::PauseLeader => {
                let leader = self.leader()?;
                self.pause(leader);
            }
            Kind::RollingTerm => self.rolling_term(),
            Kind::StarveCpu => self.starve(any),
            Kind::BusyCpu => busy(Duration::from_millis(self.rng.u64(300..1_500))),
            Kind::FewDescriptors => self.few_descriptors(any)?,
            Kind::FullDisk => self.full_disk()?,
            Kind::NoSpace => {
                let call = ["pwrite64", "fallocate"][self.rng.usize(0..2)];
                self.inject(any, &format!("{call}:error=ENOSPC"), Fate::Stops)?;
            }
            Kind::FailingSync => {
                let target = if self.rng.bool() { self.leader()? } else { any };
                self.inject(target, "fdatasync:error=EIO", Fate::Stops)?;
            }
            Kind::KilledSync => self.inject(any, "fdatasync:signal=KILL", Fate::IsKilled)?,
            Kind::KilledWrite => self.inject(any, "pwrite64:signal=KILL", Fate::IsKilled)?,
            Kind::SlowSync => {
                let target = if self.rng.bool() { self.leader()? } else { any };
                let delay_us = [20_000, 150_000, 700_000, 1_500_000][self.rng.usize(0..4)];
                self.inject(target, &format!("fdatasync:delay_enter={delay_us}"), Fate::Lives)?;
            }
            Kind::Join => self.join()?,
            Kind::Remove => self.remove(None)?,
            Kind::RemoveLeader => {
                let leader = self.leader()?;
                self.remove(Some(leader))?;
            }
            Kind::RemoveNeeded => self.remove_needed()?,
            Kind::ReplaceDead => self.replace_dead()?,
            Kind::Wipe => self.wipe()?,
            Kind::Transfer => self.transfer(),
            Kind::BitRot => self.rot()?,
            other => unreachable!("{other:?} is nothing for a process"),
        }
        Ok(())
    }

    fn wait(&mut self, least_ms: u64, most_ms: u64) {
        let time = Duration::from_millis(self.rng.u64(least_ms..=most_ms));
        self.clock.pause(time);
    }

    fn leader(&self) -> Result<usize, String> {
        // None at all is a fault of its own, which the end of the round finds.
        (0..20)
            .find_map(|_| {
                let leader = self.cluster.addresses.leader();
                if leader.is_none() {
                    self.clock.pause(Duration::from_millis(50));
                }
                leader
            })
            .ok_or_else(|| "there was no leader".to_owned())
    }

    /// Starts every member that does not run and should, and goes on with what was begun. One that ended without a
    /// reason is a violation.
    pub fn restore(&mut self) {
        for n in 0..self.cluster.size() {
            self.cluster.signal(n, Signal::CONT);
        }
        self.violations.extend(self.operator.follow(self.cluster));
    }

    /// A member ended by itself. It may have been told that it is none any more.
    fn ended(&mut self, n: usize, status: ExitStatus) {
        self.violations.extend(self.operator.judge(self.cluster, n, status).err());
    }

    fn kill_and_restart(&mut self, n: usize) {
        self.cluster.kill(n);
        // Now and then a second one at the same time: of three no majority is left then.
        let others = self.cluster.running();
        if self.rng.u8(0..3) == 0 && !others.is_empty() {
            self.cluster.kill(others[self.rng.usize(0..others.len())]);
        }
        self.wait(0, 2_500);
    }

    fn kill_recovering(&mut self, n: usize) {
        self.cluster.kill(n);
        for _ in 0..self.rng.u32(1..=4) {
            self.respawn(n);
            std::thread::sleep(Duration::from_micros(self.rng.u64(0..200_000)));
            match self.cluster.reap(n) {
                Some(status) => self.ended(n, status),
                None if !self.cluster.runs(n) => {}
                None => {
                    self.cluster.kill(n);
                    self.report.kills_in_recovery.fetch_add(1, Relaxed);
                }
            }
        }
    }

    fn pause(&mut self, n: usize) {
        self.cluster.signal(n, Signal::STOP);
        self.report.pauses.fetch_add(1, Relaxed);
        // Mostly short ones; each order of magnitude has its share.
        let most_ms = [100, 400, 1_500, 4_000, 10_000][self.rng.usize(0..5)];
        self.wait(100, most_ms);
        self.cluster.signal(n, Signal::CONT);
    }

    fn rolling_term(&mut self) {
        for n in self.cluster.running() {
            match self.cluster.term(n) {
                Ok(status) if status.code() == Some(0) => {}
                Ok(status) => self.ended(n, status),
                Err(why) => {
                    self.violations.push(format!("{why}\n{}", self.cluster.log_tail(n)));
                    return;
                }
            }
            self.respawn(n);
            // The next one only when this one serves again; a network that is cut may keep it from that.
            let addresses = self.cluster.addresses.clone();
            for _ in 0..100 {
                let status = addresses.status(n, Duration::from_millis(300));
                if status.is_some_and(|s| s["leader"].is_object())
                    || !self.clock.pause(Duration::from_millis(20))
                {
                    break;
                }
            }
        }
    }

    /// Lets a member run a tenth of the time.
    fn starve(&mut self, n: usize) {
        let until = Instant::now() + Duration::from_millis(self.rng.u64(500..4_000));
        while Instant::now() < until && !self.clock.over.load(Relaxed) {
            self.cluster.signal(n, Signal::STOP);
            std::thread::sleep(Duration::from_millis(45));
            self.cluster.signal(n, Signal::CONT);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a member that may open few files, and opens more connections to it than it can take.
    fn few_descriptors(&mut self, n: usize) -> Result<(), String> {
        self.cluster.kill(n);
        self.cluster.spawn_with_descriptors(n, 1_024);
        let address = self.cluster.addresses.http(n);
        let open = || Connection::open_within(&address, Duration::from_secs(2)).ok();
        wait_for("a member with few descriptors to listen", || match self.cluster.reap(n) {
            Some(status) => Some(Err(status)),
            None => open().map(Ok),
        })?
        .map_err(|status| format!("it does not start: {status}: {}", self.cluster.log_tail(n)))?;
        let storm: Vec<_> = (0..600).filter_map(|_| open()).collect();
        self.wait(500, 2_000);
        drop(storm);
        if let Some(status) = self.cluster.reap(n) {
            self.ended(n, status);
        } else {
            // Its limit goes with it.
            self.cluster.kill(n);
        }
        Ok(())
    }

    fn full_disk(&mut self) -> Result<(), String> {
        let (n, disk) = self.cluster.small_disk.as_ref().ok_or("no member has a small disk")?;
        let n = *n;
        if !self.cluster.runs(n) {
            return Err("nobody sits on the small disk".into());
        }
        disk.fill().map_err(|e| e.to_string())?;
        // It needs a new segment before it can notice.
        let until = Instant::now() + Duration::from_secs(10);
        let mut ended = None;
        while ended.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            ended = self.cluster.reap(n);
        }
        if let Some(status) = ended {
            self.stopped(n, status);
            // It must not start while there is no room, nor lose anything by trying.
            self.respawn(n);
            std::thread::sleep(Duration::from_millis(self.rng.u64(50..1_000)));
        }
        let (_, disk) = self.cluster.small_disk.as_ref().expect("it was there");
        disk.empty().map_err(|e| e.to_string())?;
        if ended.is_none() {
            return Err("it never needed more room".into());
        }
        // The second start may have failed, or succeeded after the room was there.
        std::thread::sleep(Duration::from_millis(200));
        if let Some(status) = self.cluster.reap(n) {
            self.stopped(n, status);
        }
        Ok(())
    }

    /// A member may end at a failing disk, in the way it should.
    fn stopped(&mut self, n: usize, status: ExitStatus) {
        self.report.fail_stops.fetch_add(1, Relaxed);
        if status.code() != Some(1) {
            self.ended(n, status);
        }
    }

    /// Attaches a fault to one of the member's next calls, or for `Fate::Lives` to all for a while.
    fn inject(&mut self, n: usize, fault: &str, fate: Fate) -> Result<(), String> {
        let when =
            if fate == Fate::Lives { String::new() } else { format!(":when={}", self.rng.u32(1..=25)) };
        let injection = Injection::attach(self.cluster.pid(n), &format!("{fault}{when}"))?;
        if fate == Fate::Lives {
            self.wait(500, 4_000);
            drop(injection);
            return Ok(());
        }
        let until = Instant::now() + Duration::from_secs(5);
        let mut ended = None;
        while ended.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            ended = self.cluster.reap(n);
        }
        drop(injection);
        match (ended.or_else(|| self.cluster.reap(n)), fate) {
            (Some(status), Fate::IsKilled) => {
                use std::os::unix::process::ExitStatusExt;
                if status.signal() != Some(9) {
                    self.ended(n, status);
                }
                self.report.injected_kills.fetch_add(1, Relaxed);
                Ok(())
            }
            (Some(status), _) => {
                self.stopped(n, status);
                Ok(())
            }
            (None, _) => Err("it made too few such calls".into()),
        }
    }
}

/// What becomes of a member with an injected fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It ends itself.
    Stops,
    /// It is killed.
    IsKilled,
    /// It goes on.
    Lives,
}

/// Keeps twice as many threads busy as there are CPUs.
fn busy(time: Duration) {
    let until = Instant::now() + time;
    let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            });
        }
    });
}
