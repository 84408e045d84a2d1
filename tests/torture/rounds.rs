//! The run: clusters, and rounds on each of them, until the dose is complete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dkv::check::{Event, write_history};

use super::checks;
use super::clients::Crowd;
use super::cluster::Cluster;
use super::kind::{ALWAYS, BESIDE, Kind, Machine, NETWORK_KINDS, PROCESS_KINDS};
use super::leases;
use super::nemesis::{self, Clock};
use super::network;
use super::operator::Operator;
use super::plan::{Plan, RoundPlan};
use super::report::Report;
use super::watches;

/// A long run goes on after a failed round, but not for ever.
const MAX_FAILED_ROUNDS: u64 = 5;

/// In so much time everything happens.
const LONG_ENOUGH: Duration = Duration::from_secs(1_800);

/// What of a failure is printed; the rest is in its directory.
const SHOWN_VIOLATIONS: usize = 8;

/// How much is done.
pub struct Dose {
    /// So many rounds,
    pub rounds: Option<u64>,
    /// each of this length at least,
    pub round: Duration,
    /// or as many as begin within this time.
    pub total: Option<Duration>,
    /// Fewer kills than this fail the run.
    pub least_kills: u64,
    /// Whether every kind of fault must have been there.
    pub is_long: bool,
}

impl Dose {
    /// A long run.
    pub fn of_minutes(minutes: u64) -> Dose {
        Dose {
            rounds: None,
            round: Duration::from_secs(25),
            total: Some(Duration::from_secs(minutes * 60)),
            least_kills: 10 * minutes,
            // In less the seed may leave something out.
            is_long: true,
        }
    }

    /// Kinds of faults without which the run counts for nothing.
    fn required(&self) -> Vec<Kind> {
        match self.total {
            Some(total) if total >= LONG_ENOUGH => {
                PROCESS_KINDS.into_iter().chain(NETWORK_KINDS).chain(BESIDE).collect()
            }
            Some(_) => Vec::new(),
            None => ALWAYS.to_vec(),
        }
    }

    /// Of what else the run counts for nothing without: what there was none of.
    fn promised(&self, report: &Report) -> Vec<String> {
        // In less the seed may leave something out.
        if self.total.is_some_and(|total| total < LONG_ENOUGH) {
            return Vec::new();
        }
        let all = [
            ("a member was let in", &report.joins),
            ("a member was removed", &report.removals),
            ("the removal of a member that was needed was refused", &report.needed_kept),
            ("a member without its data was refused", &report.strangers),
            ("a member without its data was replaced", &report.replacements),
            ("a snapshot was saved", &report.snapshots),
            ("a snapshot was installed", &report.installs),
            ("a flipped bit was refused", &report.flips_refused),
            ("all members agreed", &report.memberships_agreed),
            ("a member was told of a dead leader", &report.told),
        ];
        let none = all.into_iter().filter(|(_, counter)| counter.load(Relaxed) == 0);
        none.map(|(what, _)| format!("never {what}")).collect()
    }

    fn is_complete(&self, report: &Report, started: Instant) -> bool {
        let rounds = report.rounds.load(Relaxed);
        self.rounds.is_some_and(|most| rounds >= most)
            || self.total.is_some_and(|total| started.elapsed() >= total)
    }
}

/// What lasts as long as the run.
struct Run<'a> {
    dose: &'a Dose,
    machine: Machine,
    report: Arc<Report>,
    epoch: Instant,
    values: AtomicU64,
    lives: AtomicU64,
    interrupted: Arc<AtomicBool>,
    program: &'a Path,
    dir: PathBuf,
}

/// Runs a dose; true when nothing was wrong and nothing was missing.
pub fn run(seed: u64, dose: &Dose, program: &Path) -> bool {
    raise_descriptors();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("torture");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).expect("a signal handler");
    }
    let run = Run {
        dose,
        machine: Machine::probe(),
        report: Arc::default(),
        epoch: Instant::now(),
        values: AtomicU64::new(1),
        lives: AtomicU64::new(1),
        interrupted,
        program,
        dir,
    };
    println!("torture: seed {seed}; what fails is kept in {}", run.dir.display());
    let mut next = seed;
    while !dose.is_complete(&run.report, run.epoch) && !run.interrupted.load(Relaxed) {
        run.cluster(next);
        next += 1;
        let failed = run.report.failed_rounds.load(Relaxed);
        if failed >= MAX_FAILED_ROUNDS || (failed > 0 && !dose.is_long) {
            break;
        }
    }
    run.verdict(seed, next - 1)
}

/// Many clients and proxies take many descriptors.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

impl Run<'_> {
    /// One cluster with its rounds.
    fn cluster(&self, seed: u64) {
        let plan = Plan::draw(seed, &self.machine, self.dose.is_long);
        let dir = self.dir.join(format!("{}-{seed}", std::process::id()));
        let mut cluster = match Cluster::start(&plan, self.program, &dir, &self.report) {
            Ok(cluster) => cluster,
            Err(why) => return self.failed(seed, 0, &dir, &[why], &[]),
        };
        self.report.clusters.fetch_add(1, Relaxed);
        let mut operator = Operator::new(plan.seats, seed, &self.report);
        let mut log_offsets = vec![0; plan.seats];
        for n in 0..plan.rounds {
            if self.dose.is_complete(&self.report, self.epoch) || self.interrupted.load(Relaxed) {
                break;
            }
            let round = plan.round(n, &self.machine, self.dose.is_long);
            let started = Instant::now();
            let (violations, history) = self.round(&round, n, &mut cluster, &mut operator, &mut log_offsets);
            self.report.rounds.fetch_add(1, Relaxed);
            println!(
                "torture: seed {seed} round {n}: {} nodes ({}), {} clients, {} calls, {} s{}",
                plan.size,
                format!("{:?}", plan.wire).to_lowercase(),
                round.clients,
                history.len(),
                started.elapsed().as_secs(),
                if violations.is_empty() { ": good" } else { ": FAILED" }
            );
            if !violations.is_empty() {
                let kept = self.dir.join(format!("failed-{seed}-{n}"));
                // Nobody writes any more while the files are copied.
                cluster.running().into_iter().for_each(|n| cluster.kill(n));
                if let Err(error) = cluster.keep(&kept) {
                    println!("torture: cannot keep everything in {}: {error}", kept.display());
                }
                self.failed(seed, n, &kept, &violations, &history);
                drop(cluster);
                let _ = fs::remove_dir_all(&dir);
                return;
            }
        }
        if let Err(why) = self.last_check(&mut cluster) {
            self.failed(seed, plan.rounds, &dir, &[why], &[]);
            return;
        }
        drop(cluster);
        let _ = fs::remove_dir_all(&dir);
    }

    /// Kills every member and verifies what it leaves.
    fn last_check(&self, cluster: &mut Cluster) -> Result<(), String> {
        cluster.running().into_iter().for_each(|n| cluster.kill(n));
        // Nobody else has any data to speak of.
        cluster.members().into_iter().try_for_each(|n| checks::verify(cluster, n, 0, false, &self.report))
    }

    /// One round and its checks: what was wrong, and the history.
    fn round(
        &self,
        plan: &RoundPlan,
        number: usize,
        cluster: &mut Cluster,
        operator: &mut Operator,
        log_offsets: &mut [usize],
    ) -> (Vec<String>, Vec<Event>) {
        let over = AtomicBool::new(false);
        let crowd = Crowd {
            addresses: cluster.addresses.clone(),
            prefix: format!("r{number}/"),
            epoch: self.epoch,
            plan,
            report: &self.report,
            over: &over,
            history: Mutex::default(),
            nonsense: Mutex::default(),
            values: &self.values,
            lives: &self.lives,
            calls: AtomicU64::new(0),
        };
        let end = Instant::now() + self.dose.round;
        let clock = Clock { end, over: &over, interrupted: &self.interrupted };
        let (links, addresses) = (cluster.links.clone(), cluster.addresses.clone());
        let mut violations = std::thread::scope(|scope| {
            for thread in 0..plan.clients {
                let crowd = &crowd;
                scope.spawn(move || crowd.run(thread));
            }
            scope.spawn(|| leases::hold(&crowd));
            scope.spawn(|| watches::watch(&crowd));
            if !plan.network.is_empty() {
                let (links, addresses, clock, report) = (&links, &addresses, &clock, &self.report);
                scope.spawn(move || network::run(plan, links, addresses, clock, report));
            }
            nemesis::run(plan, cluster, operator, &clock, &self.report)
        });
        if violations.is_empty() {
            let after = self.after_round(plan, number, cluster, operator, &crowd);
            violations.extend(after.err().into_iter().flatten());
        }
        violations.extend(checks::scan_logs(cluster, log_offsets, &self.report));
        violations.append(&mut crowd.nonsense.into_inner().expect("nothing panics under the lock"));
        (violations, crowd.history.into_inner().expect("nothing panics under the lock"))
    }

    fn after_round(
        &self,
        plan: &RoundPlan,
        number: usize,
        cluster: &mut Cluster,
        operator: &mut Operator,
        crowd: &Crowd,
    ) -> Result<(), Vec<String>> {
        let one = |why: String| vec![why];
        let report = &self.report;
        operator.wait_for_agreement(cluster)?;
        checks::all_serve(cluster, crowd).map_err(one)?;
        checks::read_everything(cluster, crowd).map_err(one)?;
        checks::hashes_are_equal(cluster, report).map_err(one)?;
        let events = crowd.history.lock().expect("nothing panics under the lock").clone();
        let lost = checks::lost_writes(cluster, report, &events).map_err(one)?;
        report.lost_writes.fetch_add(lost.len() as u64, Relaxed);
        let mut found = lost;
        found.extend(checks::processes_are_sound(cluster).err());
        let members = cluster.members();
        let chosen = members[plan.seed as usize % members.len()];
        found.extend(checks::verify_one(cluster, chosen, number.is_multiple_of(2), report).err());
        found.extend(checks::history_is_linearizable(&events, report));
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    /// Says what was wrong and how to see it again.
    fn failed(&self, seed: u64, round: usize, kept: &Path, violations: &[String], history: &[Event]) {
        self.report.failed_rounds.fetch_add(1, Relaxed);
        println!("torture: FAILED: seed {seed} round {round}: {} violations", violations.len());
        violations.iter().take(SHOWN_VIOLATIONS).for_each(|violation| println!("  {violation}"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(kept)?;
            fs::write(kept.join("violations.txt"), violations.join("\n"))?;
            write_history(io::BufWriter::new(fs::File::create(kept.join("history.jsonl"))?), history)
        };
        if let Err(error) = write() {
            println!("torture: cannot keep the history: {error}");
        }
        println!("  kept: {}", kept.display());
        let way = if self.dose.is_long { "MINUTES=2 " } else { "" };
        println!("  again: make torture {way}SEED={seed}");
    }

    fn verdict(&self, first: u64, last: u64) -> bool {
        print!("{}", self.report.summary((first, last), self.epoch.elapsed(), &self.machine));
        let mut wrong = Vec::new();
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        if self.interrupted.load(Relaxed) {
            wrong.push("it was interrupted".to_owned());
        }
        if get(&self.report.failed_rounds) > 0 {
            wrong.push(format!("{} rounds failed", get(&self.report.failed_rounds)));
        }
        let missing = self.report.missing(&self.dose.required(), &self.machine);
        if !missing.is_empty() {
            wrong.push(format!("never there: {}", missing.join(", ")));
        }
        let kills = get(&self.report.kills);
        if kills < self.dose.least_kills {
            wrong.push(format!("{kills} kills are fewer than {}", self.dose.least_kills));
        }
        wrong.extend(self.dose.promised(&self.report));
        if self.dose.rounds.is_some_and(|rounds| get(&self.report.rounds) != rounds) {
            wrong.push(format!("{} rounds were run", get(&self.report.rounds)));
        }
        // Through proxies that do not carry links, everything would go by HTTP.
        let (links, frames) = (get(&self.report.links), get(&self.report.frames));
        if frames < 10 * links {
            wrong.push(format!("{links} links carried only {frames} frames"));
        }
        let done = get(&self.report.done);
        if done < 100 * get(&self.report.rounds) || get(&self.report.keys_checked) == 0 {
            wrong.push(format!("only {done} operations were done"));
        }
        wrong.iter().for_each(|text| println!("torture: FAILED: {text}"));
        wrong.is_empty()
    }
}
