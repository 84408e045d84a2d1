//! The processes, their files and their signals.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::namespaces::Namespaces;
use super::plan::{Plan, Wire};
use super::proxy::{Front, Links};
use super::report::Report;
use super::seats::{Seats, Stand};
use super::small_disk::SmallDisk;
use super::support::cluster::{Connection, fresh_ip};

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(format!("waited {} s in vain for {what}", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the members listen, for whoever only speaks to them.
#[derive(Clone)]
pub struct Addresses {
    hosts: Vec<String>,
    taken: Arc<[AtomicBool]>,
}

impl Addresses {
    /// Of a member, for clients.
    pub fn http(&self, n: usize) -> String {
        format!("{}:{}", self.hosts[n], 8081 + n)
    }

    /// How many seats there are.
    pub fn size(&self) -> usize {
        self.hosts.len()
    }

    /// The seats that are taken.
    pub fn taken(&self) -> Vec<usize> {
        (0..self.size()).filter(|&n| self.is_taken(n)).collect()
    }

    /// Whether somebody sits there.
    pub fn is_taken(&self, n: usize) -> bool {
        self.taken[n].load(Relaxed)
    }

    /// `GET /v1/status` as JSON.
    pub fn status(&self, n: usize, timeout: Duration) -> Option<Value> {
        self.get(n, "/v1/status", timeout)
    }

    /// The members as one of them knows them.
    pub fn members(&self, n: usize, timeout: Duration) -> Option<Vec<Value>> {
        self.get(n, "/v1/cluster/members", timeout)?["members"].as_array().cloned()
    }

    fn get(&self, n: usize, path: &str, timeout: Duration) -> Option<Value> {
        let mut connection = Connection::open_within(&self.http(n), timeout).ok()?;
        let answer = connection.request("GET", path, &[], b"").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The node that says it leads with the greatest term.
    pub fn leader(&self) -> Option<usize> {
        let statuses =
            self.taken().into_iter().filter_map(|n| Some((n, self.status(n, Duration::from_millis(300))?)));
        let leaders = statuses.filter(|(_, status)| status["role"] == "leader");
        leaders.max_by_key(|(_, status)| status["term"].as_u64()).map(|(n, _)| n)
    }
}

/// Real processes. Dropped, it ends every one of them.
pub struct Cluster {
    pub dir: PathBuf,
    program: PathBuf,
    pub addresses: Addresses,
    pub links: Arc<Links>,
    pub small_disk: Option<(usize, SmallDisk)>,
    /// Who sits where.
    pub seats: Seats,
    /// How many members there were at first.
    pub initial_members: usize,
    /// Whether it was started to join, and not by its configuration alone.
    joined: Vec<bool>,
    /// Of who joins: whether it stays a learner until it is promoted.
    learner: Vec<bool>,
    /// Where in its log the last start begins.
    started_at: Vec<u64>,
    rng: Rng,
    wire: Wire,
    children: Vec<Option<Child>>,
    report: Arc<Report>,
    _fronts: Vec<Front>,
}

impl Cluster {
    /// Writes the configurations into `dir`, starts the proxies and the members, and waits until a member leads.
    pub fn start(plan: &Plan, program: &Path, dir: &Path, report: &Arc<Report>) -> Result<Cluster, String> {
        let said = |e: io::Error| format!("cannot set up a cluster in {}: {e}", dir.display());
        fs::create_dir_all(dir).map_err(said)?;
        let namespaces = match plan.wire {
            Wire::Namespaces => Some(Namespaces::make(plan.seats).map_err(said)?),
            Wire::Plain | Wire::Proxies => None,
        };
        let hosts = match &namespaces {
            Some(namespaces) => (0..plan.seats).map(|n| namespaces.host(n)).collect(),
            None => vec![fresh_ip(); plan.seats],
        };
        let seats = Seats::new(plan.seats, plan.size);
        let addresses = Addresses { hosts, taken: seats.taken() };
        let links = Arc::new(Links::new(plan.seats, plan.seed, namespaces, report.clone()));
        let mut cluster = Cluster {
            dir: dir.to_owned(),
            program: program.to_owned(),
            addresses,
            links,
            small_disk: None,
            seats,
            initial_members: plan.size,
            joined: vec![false; plan.seats],
            learner: vec![false; plan.seats],
            started_at: vec![0; plan.seats],
            rng: Rng::with_seed(plan.seed ^ 0x7365_6174),
            wire: plan.wire,
            children: (0..plan.seats).map(|_| None).collect(),
            report: report.clone(),
            _fronts: Vec::new(),
        };
        if plan.wire == Wire::Proxies {
            for n in 0..plan.seats {
                let front = Front::start(&cluster.front(n), &cluster.listen_raft(n), n, &cluster.links);
                cluster._fronts.push(front.map_err(said)?);
            }
        }
        if let Some(n) = plan.small_disk {
            let disk = SmallDisk::mount(&cluster.data_dir(n)).map_err(said)?;
            cluster.small_disk = Some((n, disk));
        }
        for n in 0..plan.seats {
            fs::write(cluster.config_path(n, false), cluster.config(n, plan, true)).map_err(said)?;
            fs::write(cluster.config_path(n, true), cluster.config(n, plan, false)).map_err(said)?;
        }
        (0..plan.size).for_each(|n| cluster.spawn(n));
        wait_for("the bootstrap of the cluster", || cluster.addresses.leader())?;
        (0..plan.size).for_each(|n| cluster.learn(n));
        Ok(cluster)
    }

    /// Tells the links who sits there.
    pub fn learn(&self, n: usize) {
        if let Some(member_id) = self.member_id(n) {
            self.links.learn(&member_id, n);
        }
    }

    fn front(&self, n: usize) -> String {
        format!("{}:{}", self.addresses.hosts[n], 28081 + n)
    }

    /// Where the others reach a member.
    pub fn advertised_raft(&self, n: usize) -> String {
        if self.wire == Wire::Proxies { self.front(n) } else { self.listen_raft(n) }
    }

    fn listen_raft(&self, n: usize) -> String {
        format!("{}:{}", self.addresses.hosts[n], 18081 + n)
    }

    fn config(&self, n: usize, plan: &Plan, is_bootstrap_node: bool) -> String {
        let mut text = format!("node_id: {}\ndata_dir: {}\n", self.name(n), self.data_dir(n).display());
        text += &plan.settings;
        if plan.wire == Wire::Proxies {
            text += &format!("listen_raft: \"{}\"\n", self.listen_raft(n));
        }
        // Who joins is told on its command line.
        if !is_bootstrap_node {
            return text;
        }
        text += "peers:\n";
        for peer in 0..plan.size {
            let raft = self.advertised_raft(peer);
            let (name, http) = (self.name(peer), self.addresses.http(peer));
            text += &format!("  - {{ node_id: {name}, raft_addr: \"{raft}\", http_addr: \"{http}\" }}\n");
        }
        text
    }

    /// The identity in its directory.
    pub fn member_id(&self, n: usize) -> Option<String> {
        let text = fs::read_to_string(self.data_dir(n).join("identity")).ok()?;
        let identity: Value = serde_json::from_str(text.lines().next()?).ok()?;
        Some(identity["member_id"].as_str()?.to_owned())
    }

    /// Of the configuration of a member.
    pub fn name(&self, n: usize) -> String {
        format!("node{}", n + 1)
    }

    fn config_path(&self, n: usize, joins: bool) -> PathBuf {
        self.dir.join(format!("{}{}.yaml", self.name(n), if joins { "-joins" } else { "" }))
    }

    /// Its data.
    pub fn data_dir(&self, n: usize) -> PathBuf {
        self.dir.join(self.name(n))
    }

    fn log_path(&self, n: usize) -> PathBuf {
        self.dir.join(format!("{}.log", self.name(n)))
    }

    /// Everything a member ever said.
    pub fn log(&self, n: usize) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path(n)).unwrap_or_default()).into_owned()
    }

    /// What it said since its last start.
    pub fn said_since_start(&self, n: usize) -> String {
        let bytes = fs::read(self.log_path(n)).unwrap_or_default();
        let from = usize::try_from(self.started_at[n]).expect("a length").min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, n: usize) -> String {
        let log = self.log(n);
        let mut lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// How many seats there are.
    pub fn size(&self) -> usize {
        self.children.len()
    }

    /// The voters, as far as is known: all that must serve when nothing hinders them.
    pub fn members(&self) -> Vec<usize> {
        self.seats.that(Stand::Member)
    }

    /// From now on it is started to join, and stays a learner until it is promoted or becomes a voter by itself.
    pub fn begin_to_join(&mut self, n: usize, is_learner: bool) {
        self.joined[n] = true;
        self.learner[n] = is_learner;
        self.seats.set(n, Stand::Joining);
    }

    /// Empties the directory of a member that does not run. The directory itself may be a file system.
    pub fn wipe(&mut self, n: usize) {
        assert!(!self.runs(n), "{} runs", self.name(n));
        // Who begins anew there is to vote, whatever the one before was at first.
        self.learner[n] = false;
        let dir = self.data_dir(n);
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.unwrap_or_else(|e| panic!("cannot remove {}: {e}", path.display()));
        }
    }

    /// Whether its process was started and not ended by the rig.
    pub fn runs(&self, n: usize) -> bool {
        self.children[n].is_some()
    }

    /// The members whose processes were started and not ended by the rig.
    pub fn running(&self) -> Vec<usize> {
        (0..self.size()).filter(|&n| self.runs(n)).collect()
    }

    /// Starts a member. It ends by itself when the rig is gone.
    pub fn spawn(&mut self, n: usize) {
        self.spawn_as(n, &[]);
    }

    /// Starts a member that may open so many files.
    pub fn spawn_with_descriptors(&mut self, n: usize, limit: u64) {
        self.spawn_as(n, &["prlimit".to_owned(), format!("--nofile={limit}:{limit}")]);
    }

    /// After these words, which say a program that becomes the one after it.
    fn spawn_as(&mut self, n: usize, words: &[String]) {
        let mut all = self
            .links
            .namespace(n)
            .map_or(Vec::new(), |name| vec!["nsenter".to_owned(), format!("--net=/run/netns/{name}")]);
        all.extend_from_slice(words);
        all.push(self.program.display().to_string());
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]);
        assert!(self.children[n].is_none(), "{} runs already", self.name(n));
        let log = File::options().create(true).append(true).open(self.log_path(n)).expect("a log file");
        self.started_at[n] = log.metadata().expect("its length").len();
        command.arg("--config").arg(self.config_path(n, self.joined[n]));
        command.arg("--exit-with-stdin").stdin(Stdio::piped());
        if self.joined[n] {
            let through: Vec<usize> = self.members().into_iter().filter(|&other| other != n).collect();
            let through = self.rng.choice(through).expect("a member");
            command.args(["--join", &self.addresses.http(through), "--node-id", &self.name(n)]);
            command.args(["--raft-addr", &self.advertised_raft(n), "--http-addr", &self.addresses.http(n)]);
            command.args(self.learner[n].then_some("--learner"));
        }
        // Ctrl-C is for the rig alone, which ends them in its way.
        command.stdout(log.try_clone().expect("a second handle")).stderr(log).process_group(0);
        self.children[n] = Some(command.spawn().expect("dkv-server starts"));
        self.report.starts.fetch_add(1, Relaxed);
    }

    /// Of a running member.
    pub fn pid(&self, n: usize) -> u32 {
        self.children[n].as_ref().expect("it runs").id()
    }

    /// kill -9, and its end.
    pub fn kill(&mut self, n: usize) {
        let mut child = self.children[n].take().expect("it runs");
        child.kill().expect("kill -9");
        child.wait().expect("its end");
        self.report.kills.fetch_add(1, Relaxed);
    }

    /// Signals a member; false when it has ended.
    pub fn signal(&self, n: usize, signal: Signal) -> bool {
        self.children[n].as_ref().is_some_and(|child| kill_process(Pid::from_child(child), signal).is_ok())
    }

    /// The end of a member that ended by itself.
    pub fn reap(&mut self, n: usize) -> Option<ExitStatus> {
        let status = self.children[n].as_mut()?.try_wait().expect("its status")?;
        self.children[n] = None;
        Some(status)
    }

    /// SIGTERM, and how it ended.
    pub fn term(&mut self, n: usize) -> Result<ExitStatus, String> {
        self.signal(n, Signal::TERM);
        self.report.terms.fetch_add(1, Relaxed);
        wait_for(&format!("the end of {} after SIGTERM", self.name(n)), || self.reap(n))
    }

    /// `dkv-server fsck` on the data of a member that is not running.
    pub fn fsck(&self, n: usize) -> Output {
        Command::new(&self.program).arg("fsck").arg(self.data_dir(n)).output().expect("dkv-server starts")
    }

    /// Copies everything to `to`, for whoever looks for the cause.
    pub fn keep(&self, to: &Path) -> io::Result<()> {
        copy_tree(&self.dir, to)
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
