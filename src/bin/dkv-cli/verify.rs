//! `dkv-cli verify`: concurrent clients on a live cluster, and whether what they saw was linearizable.
//!
//! The keys lie below a prefix that no other run has and are taken away at the end. They come in generations: after a
//! while all clients go on to fresh keys, so that the history of no key grows long, and a list shows one generation.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dkv::api::{self, ErrorCode, ListReply, MemberInfo, TxnReply, Wanted};
use dkv::check::{self, Answer, Event, Holds, Limits, Op, Row, TxnOp, TxnResult};
use dkv::client::{
    Client, ClientError, Condition, ListOptions, RangeOptions, ReadOptions, Step, Txn, When, WriteOptions,
};
use dkv::files::Output;
use serde::Serialize;

use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Look, Printer, notice};
use crate::{verify_leases, verify_watches};

/// Operations per key of a generation.
const GENERATION_OPERATIONS: u64 = 200;

/// Unknown writes of a generation: each one multiplies what a search has to try.
const GENERATION_UNKNOWN: u64 = 12;

/// Longest patience with one operation: a cluster that answers slowly is left time for several.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// For so long an endpoint is asked which member it leads to.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause of a client whose node does not serve, before it asks the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// What the command line asks for.
pub struct Plan {
    pub seconds: u64,
    pub clients: u64,
    pub keys: u64,
    pub history: Option<PathBuf>,
    /// Whether a file of that name is replaced.
    pub force: bool,
    /// For one operation.
    pub timeout: Duration,
}

/// What the history says.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
enum Verdict {
    #[serde(rename = "linearizable")]
    Linearizable,
    #[serde(rename = "not linearizable")]
    NotLinearizable,
    #[serde(rename = "a promise about a lease was broken")]
    LeaseBroken,
    #[serde(rename = "a promise about a watch was broken")]
    WatchBroken,
    #[serde(rename = "undecided")]
    Undecided,
    #[serde(rename = "nothing was done")]
    NothingDone,
}

/// What came out, as `-o json` prints it.
#[derive(Serialize)]
struct Report {
    verdict: Verdict,
    /// What contradicts what, or why it is undecided.
    faults: Vec<String>,
    operations: usize,
    done: usize,
    not_done: usize,
    unknown: usize,
    keys: usize,
    nodes: usize,
    seconds: f64,
    history: PathBuf,
}

/// What the clients were told, and which promises about leases and watches were broken.
struct Seen {
    history: Vec<Event>,
    leases: Vec<String>,
    watches: Vec<String>,
}

/// Runs the clients, saves and checks the history, and says what came out.
pub fn run(roaming: &Client, plan: &Plan, printer: &Printer) -> Result<(), Failure> {
    // So that every member is asked, not only those on the command line.
    let members = roaming.cluster()?.members;
    let run = format!("{:012x}", fastrand::u64(..) >> 16);
    let path = plan.history.clone().unwrap_or_else(|| PathBuf::from(format!("dkv-history-{run}.jsonl")));
    interrupt::watch()?;
    let output = Output::open(&path, plan.force)?;
    let messages = printer.on_standard_error();
    let printer = if matches!(output, Output::Stdout) { &messages } else { printer };
    let workload = Workload {
        prefix: format!("dkv-verify/{run}/"),
        nodes: nodes(roaming, &members),
        cluster: roaming.cluster_id(),
        clients: plan.clients,
        keys: plan.keys,
        timeout: plan.timeout.min(OPERATION_TIMEOUT),
        started: Instant::now(),
        until: Instant::now() + Duration::from_secs(plan.seconds),
        spent: AtomicU64::new(0),
        next_process: AtomicU64::new(0),
        trouble: Mutex::default(),
    };
    if !printer.is_json() {
        let Workload { prefix, nodes, .. } = &workload;
        printer.bytes(
            format!(
                "{} clients on {} keys at a time below {prefix} through {}, for {} s\n",
                plan.clients,
                plan.keys,
                nodes.join(", "),
                plan.seconds
            )
            .as_bytes(),
        )?;
    }
    let Seen { history, leases, watches } = workload.drive()?;
    let seconds = workload.started.elapsed().as_secs_f64();
    save(output, &path, &history)?;
    let left = clean_up(roaming, &workload.prefix);
    let mut report = judge(&history, seconds, workload.nodes.len(), path);
    if report.verdict != Verdict::NotLinearizable {
        let broken = [(&leases, Verdict::LeaseBroken), (&watches, Verdict::WatchBroken)];
        for (_, verdict) in broken.into_iter().filter(|(faults, _)| !faults.is_empty()) {
            report.verdict = verdict;
        }
    }
    report.faults.extend(leases.into_iter().chain(watches));
    if let Err(error) = left {
        let prefix = &workload.prefix;
        eprintln!(
            "dkv-cli: keys are left below {prefix}: {error}; `dkv-cli list --prefix {prefix}` shows them"
        );
    }
    say(&report, printer)?;
    let trouble = workload.trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (Some(reason), 0) = (trouble, report.done) {
        eprintln!("dkv-cli: no operation was done; the last one: {reason}");
    }
    match report.verdict {
        Verdict::Linearizable => Ok(()),
        Verdict::NotLinearizable | Verdict::LeaseBroken | Verdict::WatchBroken => Err(Failure::Silent(5)),
        Verdict::Undecided => Err(Failure::Silent(6)),
        Verdict::NothingDone => Err(Failure::Silent(3)),
    }
}

/// Where the clients begin: every member, whether it answers or not, and each other endpoint that leads to a member now.
/// An endpoint of a member that was removed is none.
fn nodes(roaming: &Client, members: &[MemberInfo]) -> Vec<String> {
    let mut nodes: Vec<String> = members.iter().map(|member| member.http_addr.clone()).collect();
    for addr in roaming.endpoints() {
        let leads_to_a_member = || {
            let there = roaming.status(&addr, PROBE_TIMEOUT).ok().map(|status| status.member_id);
            there.is_some() && members.iter().any(|member| member.member_id == there)
        };
        if !nodes.contains(&addr) && leads_to_a_member() {
            nodes.push(addr);
        }
    }
    if nodes.is_empty() { roaming.endpoints() } else { nodes }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("the history cannot be written to {}: {error}", path.display());
    Failure::Client(ClientError::Invalid(text))
}

fn save(output: Output, path: &Path, history: &[Event]) -> Result<(), Failure> {
    let written = match &output {
        Output::Stdout => write(&mut io::stdout().lock(), history),
        Output::Pipe(pipe) => write(&mut BufWriter::new(pipe), history),
        Output::New(new) => write(&mut BufWriter::new(new.file()), history),
    };
    written.map_err(|e| unwritable(path, &e))?;
    if let Output::New(new) = output
        && let Some(text) = new.place()?
    {
        eprintln!("dkv-cli: {text}");
    }
    Ok(())
}

fn write(out: &mut impl Write, history: &[Event]) -> io::Result<()> {
    check::write_history(&mut *out, history).and_then(|()| out.flush())
}

/// Removes every key of the run. What a write of unknown outcome does later stays behind.
fn clean_up(client: &Client, prefix: &str) -> Result<(), ClientError> {
    let options = ListOptions { prefix: prefix.into(), keys_only: true, ..ListOptions::default() };
    let mut keys = Vec::new();
    client.list_all(&options, None, |page: ListReply| {
        keys.extend(page.kvs.into_iter().map(|row| row.key));
        ControlFlow::Continue(())
    })?;
    keys.iter().try_for_each(|key| client.delete(key, &WriteOptions::default()).map(|_| ()))
}

fn judge(history: &[Event], seconds: f64, nodes: usize, path: PathBuf) -> Report {
    let count = |answer: &Answer| history.iter().filter(|event| event.answer == *answer).count();
    let (not_done, unknown) = (count(&Answer::NotDone), count(&Answer::Unknown));
    let done = history.len() - not_done - unknown;
    let limits = Limits::default();
    // Each looks for itself: the one uses the order that the answers name, the other trusts nothing but the answers.
    let verdicts = [
        check::check_revisions(history),
        check::check_order(history),
        check::check_linearizable(&check::resolve_unknown(history, None), &limits),
    ];
    let faults: Vec<&check::Fault> = verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).collect();
    let verdict = match &faults[..] {
        [] if done == 0 => Verdict::NothingDone,
        [] => Verdict::Linearizable,
        faults if faults.iter().all(|fault| fault.is_undecided()) => Verdict::Undecided,
        _ => Verdict::NotLinearizable,
    };
    let mut keys: Vec<&str> = history.iter().flat_map(|event| event.op.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let faults = faults.iter().map(ToString::to_string).collect();
    let (operations, keys) = (history.len(), keys.len());
    Report { verdict, faults, operations, done, not_done, unknown, keys, nodes, seconds, history: path }
}

fn say(report: &Report, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(report);
    }
    let Report { operations, done, not_done, unknown, keys, nodes, seconds, .. } = report;
    let of = if *nodes == 1 { "node" } else { "nodes" };
    let mut text = format!(
        "{operations} operations on {keys} keys through {nodes} {of} in {seconds:.1} s: {done} done, {not_done} not \
         done, {unknown} unknown\nhistory: {}\n",
        report.history.display()
    );
    report.faults.iter().for_each(|fault| text.push_str(&format!("{fault}\n")));
    let (look, sentence) = match report.verdict {
        Verdict::Linearizable => {
            (Look::Good, "linearizable: one order of the operations explains every answer")
        }
        Verdict::NotLinearizable => {
            (Look::Bad, "NOT linearizable: no order of the operations explains every answer")
        }
        Verdict::LeaseBroken => (Look::Bad, "BROKEN: a lease did not keep what it promises"),
        Verdict::WatchBroken => (Look::Bad, "BROKEN: a watch did not tell what was done"),
        Verdict::Undecided => {
            (Look::Bad, "undecided: the check was given up before it found an order, or that there is none")
        }
        Verdict::NothingDone => {
            (Look::Bad, "nothing was done, so nothing was checked: `dkv-cli status` shows what answers")
        }
    };
    text.push_str(&format!("{}\n", printer.paint(look, sentence)));
    printer.bytes(text.as_bytes())
}

/// What all clients share.
struct Workload {
    prefix: String,
    nodes: Vec<String>,
    cluster: Option<String>,
    clients: u64,
    keys: u64,
    timeout: Duration,
    started: Instant,
    until: Instant,
    /// How much of all generations is used up.
    spent: AtomicU64,
    next_process: AtomicU64,
    /// Why the last operation that was not done was not.
    trouble: Mutex<Option<String>>,
}

impl Workload {
    /// Lets the clients run, and those who look at leases and watches beside them.
    fn drive(&self) -> Result<Seen, ClientError> {
        let clients: Vec<Verifier> =
            (0..self.clients).map(|n| Verifier::new(self, n)).collect::<Result<_, _>>()?;
        let nodes = self.at_every_node()?;
        let watched: Vec<Arc<Client>> = self.at_every_node()?.into_iter().map(Arc::new).collect();
        let mut seen = thread::scope(|scope| {
            let leases = scope.spawn(|| verify_leases::watch(&nodes, &self.prefix, self.until));
            let watches = scope.spawn(|| verify_watches::watch(&watched, &self.prefix, self.until));
            let threads: Vec<_> =
                clients.into_iter().map(|client| scope.spawn(move || client.run())).collect();
            let told = threads.into_iter().flat_map(|thread| thread.join().expect("no client panics"));
            Seen {
                history: told.collect(),
                leases: leases.join().expect("nobody who looks at leases panics"),
                watches: watches.join().expect("nobody who watches panics"),
            }
        });
        seen.history.sort_by_key(|event| event.call_ns);
        Ok(seen)
    }

    /// One client for each node.
    fn at_every_node(&self) -> Result<Vec<Client>, ClientError> {
        // One cluster for all: a node of another one serves nothing here, instead of a second history.
        let at_node = |addr: &String| {
            let client = Client::at_node(addr, self.timeout)?.with_notices(notice);
            match &self.cluster {
                Some(cluster) => client.keep_to(cluster),
                None => Ok(client),
            }
        };
        self.nodes.iter().map(at_node).collect()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Where the keys of the present generation lie.
    fn generation(&self) -> String {
        let generation = self.spent.load(Ordering::Relaxed) / (GENERATION_OPERATIONS * self.keys);
        format!("{}{generation:06}/", self.prefix)
    }

    fn spend(&self, event: &Event) {
        let is_open = event.answer == Answer::Unknown && event.op.is_write();
        let cost = if is_open { (GENERATION_OPERATIONS * self.keys).div_ceil(GENERATION_UNKNOWN) } else { 1 };
        self.spent.fetch_add(cost, Ordering::Relaxed);
    }

    fn new_process(&self) -> u64 {
        self.next_process.fetch_add(1, Ordering::Relaxed)
    }
}

/// One client: one operation after the other, through one node as long as that serves.
struct Verifier<'a> {
    workload: &'a Workload,
    /// One client per node.
    clients: Vec<Client>,
    at: usize,
    process: u64,
    operations: u64,
    rng: fastrand::Rng,
    /// The revision seen last; a condition on another key's revision must fail.
    last_revision: u64,
}

impl Verifier<'_> {
    fn new(workload: &Workload, n: u64) -> Result<Verifier<'_>, ClientError> {
        let clients = workload.at_every_node()?;
        let at = n as usize % clients.len();
        Ok(Verifier {
            workload,
            clients,
            at,
            process: workload.new_process(),
            operations: 0,
            rng: fastrand::Rng::new(),
            last_revision: 0,
        })
    }

    fn run(mut self) -> Vec<Event> {
        let mut history = Vec::new();
        while Instant::now() < self.workload.until {
            let op = self.draw();
            let call_ns = self.workload.now_ns();
            let Told { answer, index, version } = self.ask(&op);
            let return_ns = self.workload.now_ns();
            let event = Event { process: self.process, call_ns, return_ns, op, answer, index, version };
            self.workload.spend(&event);
            match &event.answer {
                // The write may take effect later, so the client continues under another id.
                Answer::Unknown => self.process = self.workload.new_process(),
                Answer::NotDone => {
                    self.at = (self.at + 1) % self.clients.len();
                    thread::sleep(PAUSE);
                }
                Answer::Value { mod_revision: revision, .. }
                | Answer::PreconditionFailed { mod_revision: revision }
                | Answer::Conflict { mod_revision: revision }
                | Answer::Added { revision, .. }
                | Answer::Written { revision } => self.last_revision = *revision,
                _ => {}
            }
            history.push(event);
        }
        history
    }

    /// The next operation.
    fn draw(&mut self) -> Op {
        self.operations += 1;
        let prefix = self.workload.generation();
        if self.rng.u8(..10) == 0 {
            return Op::List { prefix };
        }
        let keys: Vec<String> = (0..self.workload.keys).map(|key| format!("{prefix}{key}")).collect();
        // Half of the values are integers, so that counters are met with values and without.
        let (process, number, is_integer) = (self.process, self.operations, self.rng.bool());
        let mut part = 0;
        // A transaction asks for several.
        let value = || {
            part += 1;
            match is_integer && part == 1 {
                true => format!("{process}{number:08}").trim_start_matches('0').to_owned(),
                false => format!("{process}.{number}.{part}"),
            }
        };
        check::draw_operation(&mut self.rng, &keys, value, |_| Some(self.last_revision))
    }

    fn ask(&self, op: &Op) -> Told {
        let client = &self.clients[self.at];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let result = match op {
            Op::Get { key } => client.see(key.as_bytes(), &ReadOptions::default()).map(|seen| {
                let version = seen.value.as_ref().map(|record| record.version);
                let answer = seen.value.map_or(Answer::Absent, |record| Answer::Value {
                    value: text(&record.value),
                    mod_revision: record.mod_revision,
                });
                Told { answer, index: seen.index, version }
            }),
            Op::Put { key, value, condition } => {
                client.put(key.as_bytes(), value.as_bytes(), &options(*condition)).map(|written| {
                    let answer = Answer::Written { revision: written.reply.revision };
                    let version = Some(written.reply.version);
                    Told { answer, index: written.index.filter(|_| !written.replayed), version }
                })
            }
            Op::Delete { key, condition } => {
                client.delete(key.as_bytes(), &options(*condition)).map(|written| {
                    let (revision, deleted) = (written.reply.revision, written.reply.deleted == 1);
                    let answer = Answer::Deleted { revision, deleted };
                    Told { answer, index: written.index.filter(|_| !written.replayed), version: None }
                })
            }
            Op::Add { key, amount, condition } => {
                client.add(key.as_bytes(), *amount, &options(*condition)).map(|written| {
                    let (revision, value) = (written.reply.revision, written.reply.value);
                    let version = Some(written.reply.version);
                    let index = written.index.filter(|_| !written.replayed);
                    Told { answer: Answer::Added { revision, value }, index, version }
                })
            }
            Op::DeleteRange { start, end } => {
                let (start, end) = (start.as_bytes(), end.as_deref().unwrap_or_default().as_bytes());
                let range =
                    RangeOptions { start: start.to_vec(), end: end.to_vec(), ..RangeOptions::default() };
                client.delete_range(&range, &options(None)).map(|written| {
                    let (revision, deleted) = (written.reply.revision, written.reply.deleted);
                    let answer = Answer::DeletedRange { revision, deleted };
                    Told { answer, index: written.index.filter(|_| !written.replayed), version: None }
                })
            }
            Op::Txn(txn) => client.txn(&request_of(txn), None).and_then(|written| {
                let answer = answer_of(txn, &written.reply)?;
                let index = written.index.filter(|_| !written.replayed && answer != Answer::Unknown);
                Ok(Told { answer, index, version: None })
            }),
            Op::List { prefix } => {
                let options = ListOptions { prefix: prefix.as_bytes().to_vec(), ..ListOptions::default() };
                client.see_list(&options).map(|seen| {
                    let rows = seen.value.kvs.iter().map(|row| Row {
                        key: text(&row.key),
                        value: text(row.value.as_deref().unwrap_or_default()),
                        mod_revision: row.mod_revision,
                    });
                    let answer = Answer::Listed { revision: seen.value.revision, rows: rows.collect() };
                    Told { answer, index: seen.index, version: None }
                })
            }
        };
        result.unwrap_or_else(|error| {
            let (answer, version) = refusal(&error);
            if answer == Answer::NotDone {
                let mut trouble = self.workload.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                *trouble = Some(error.to_string());
            }
            Told { answer, index: None, version }
        })
    }
}

/// A transaction in the words of the client.
fn request_of(txn: &check::Txn) -> Txn {
    let condition = |test: &check::Test| {
        let key = When::key(test.key.as_bytes());
        match &test.holds {
            Holds::Exists => key.exists(),
            Holds::Absent => key.is_absent(),
            Holds::ModRevision(revision) => key.mod_revision(Wanted::Eq(*revision)),
            Holds::Value(value) => key.value_is(value.as_bytes()),
        }
    };
    let step = |op: &TxnOp| match op {
        TxnOp::Get { key } => Step::get(key.as_bytes()),
        TxnOp::Put { key, value } => Step::put(key.as_bytes(), value.as_bytes()),
        TxnOp::Delete { key } => Step::delete(key.as_bytes()),
    };
    let request = txn.tests.iter().map(condition).fold(Txn::new(), Txn::when);
    let request = txn.then.iter().map(step).fold(request, Txn::then);
    txn.otherwise.iter().map(step).fold(request, Txn::otherwise)
}

/// What a transaction was told, in the words of the checker.
fn answer_of(txn: &check::Txn, reply: &TxnReply) -> Result<Answer, ClientError> {
    let TxnReply { revision, succeeded, ref results, .. } = *reply;
    let ops = if succeeded { &txn.then } else { &txn.otherwise };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let result = |result: &api::TxnResult| match result {
        api::TxnResult::Put { .. } => Some(TxnResult::Written),
        api::TxnResult::Delete { deleted, .. } => Some(TxnResult::Deleted { deleted: *deleted > 0 }),
        api::TxnResult::Get(None) => Some(TxnResult::Absent),
        api::TxnResult::Get(Some(record)) => {
            let (value, mod_revision) = (text(&record.value), record.mod_revision);
            Some(TxnResult::Value { value, mod_revision })
        }
        api::TxnResult::List { .. } | api::TxnResult::Txn { .. } => None,
    };
    let results: Vec<TxnResult> = results.iter().filter_map(result).collect();
    let is_one_for_each = results.len() == ops.len() && results.len() == reply.results.len();
    if !is_one_for_each && !reply.truncated {
        let reason = format!("the results are not those of the transaction: {reply:?}");
        return Err(ClientError::Unknown { reason, idempotency_key: None });
    }
    Ok(if reply.truncated { Answer::Unknown } else { Answer::Txn { revision, succeeded, results } })
}

/// An answer with what it says about its place and its key.
struct Told {
    answer: Answer,
    index: Option<u64>,
    version: Option<u64>,
}

fn options(condition: Option<Condition>) -> WriteOptions {
    WriteOptions { condition, idempotency_key: None }
}

fn refusal(error: &ClientError) -> (Answer, Option<u64>) {
    let answer = match error {
        ClientError::Refused(detail) if detail.code == ErrorCode::PreconditionFailed => {
            let mod_revision = detail.mod_revision.unwrap_or(0);
            return (Answer::PreconditionFailed { mod_revision }, detail.version);
        }
        ClientError::Refused(detail)
            if detail.code == ErrorCode::Conflict && detail.mod_revision.is_some() =>
        {
            let mod_revision = detail.mod_revision.unwrap_or(0);
            return (Answer::Conflict { mod_revision }, detail.version);
        }
        ClientError::Unknown { .. } => Answer::Unknown,
        ClientError::Refused(_) | ClientError::Invalid(_) | ClientError::Unavailable(_) => Answer::NotDone,
    };
    (answer, None)
}
