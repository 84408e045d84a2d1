//! `dkv-server cluster FILE...`: one child per file, with prefixed lines, until a signal ends them all.
//!
//! Children hold the read end of a pipe whose write end only this process has: when it is killed, they see the end of
//! their standard input and stop. They lead process groups of their own, so that the terminal's Ctrl-C reaches them
//! once, through here, and not twice.

use std::ffi::c_int;
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use dkv::api::MemberInfo;
use dkv::client::{Client, ReadOptions};
use dkv::config::Config;
use dkv::files::{check_name, open_file};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGINT};

use crate::CONFIG_ERROR;
use crate::signals::{self, Action, Caught, Reactions};
use crate::terminal::Terminal;

/// After the first signal the children have this long; then they are killed. Longer than a node's own grace of 5 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of a child waits for its last lines to be printed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the nodes are asked whether the store serves: at first, later, and who leads once it does.
const ASK_EVERY_AT_FIRST: Duration = Duration::from_millis(20);
const ASK_EVERY: Duration = Duration::from_millis(200);
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Nodes that start together serve within this time.
const AT_FIRST: Duration = Duration::from_secs(5);

/// Longest piece of a child's line that is printed at once.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Colours of the prefixes: cyan, yellow, magenta, green, blue.
const COLOURS: [u8; 5] = [36, 33, 35, 32, 34];

/// One node of the cluster.
struct Node {
    file: PathBuf,
    config: Config,
}

/// A child that runs.
struct Running {
    node_id: String,
    file: PathBuf,
    child: Child,
    /// Disconnected once everything that it said is on its way to the terminal.
    said: Receiver<()>,
}

/// Starts one node per file and stays until all have ended.
pub fn run(program: Option<&Path>, files: &[PathBuf]) -> ExitCode {
    match start_and_watch(program, files) {
        Ok(code) => code,
        Err(error) => {
            refuse(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start_and_watch(program: Option<&Path>, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let named = program.map_or(Ok(()), |program| check_name(program).map_err(|e| format!("--program: {e}")));
    let nodes = match named.and_then(|()| load(files)).and_then(|nodes| check_ports(&nodes).map(|()| nodes)) {
        Ok(nodes) => nodes,
        Err(line) => {
            refuse(&line);
            return Ok(ExitCode::from(CONFIG_ERROR));
        }
    };
    let program = match program {
        Some(program) => program.to_owned(),
        None => std::env::current_exe().context("cannot find the own program")?,
    };
    // Before the first child: a signal in between must not be lost.
    let Caught { mut signals, reactions } =
        Caught::in_foreground(&[SIGCHLD]).context("cannot take signals")?;
    let handle = signals.handle();
    let (events, queue) = bounded(64);
    let listener = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // A full queue holds a wake-up already; signals that end the cluster are never that many.
            let _ = events.try_send(signal);
        }
    })?;
    let (terminal, printed) = Terminal::start().context("cannot start a thread")?;
    let began = Instant::now();
    let mut cluster =
        Cluster { running: Vec::new(), reactions, stopping: None, code: None, terminal: terminal.clone() };
    let started = cluster.start(&program, &nodes);
    let (stop_watch, watch_ends) = bounded::<()>(0);
    let watch = thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch_leader(&nodes, began, &watch_ends, &terminal))?;
    if started.is_err() {
        cluster.stop(Signal::TERM);
    }
    let code = cluster.supervise(&queue);
    drop(stop_watch);
    handle.close();
    let _ = (watch.join(), listener.join());
    drop(cluster);
    printed.wait();
    started.map(|()| code)
}

/// Reads every file; the error is one line.
fn load(files: &[PathBuf]) -> Result<Vec<Node>, String> {
    let mut nodes: Vec<Node> = Vec::new();
    for file in files {
        open_file(file, "each node reads it again").map_err(|e| format!("{}: {}", file.display(), e.what))?;
        let config = Config::load(file).map_err(|e| e.to_string())?;
        for other in &nodes {
            let same = |what: &str, value: &dyn std::fmt::Display| {
                let other = other.file.display();
                Err(format!(
                    "{}: {what}: {value}: the same as in {other}; every node needs its own",
                    file.display()
                ))
            };
            if other.config.node_id == config.node_id {
                return same("node_id", &config.node_id);
            }
            if other.config.data_dir == config.data_dir {
                return same("data_dir", &config.data_dir.display());
            }
        }
        nodes.push(Node { file: file.clone(), config });
    }
    Ok(nodes)
}

/// Tries every port before anything is started; the error is one line.
fn check_ports(nodes: &[Node]) -> Result<(), String> {
    for Node { file, config } in nodes {
        for (field, addr) in [("listen_http", config.listen_http()), ("listen_raft", config.listen_raft())] {
            if let Err(e) = TcpListener::bind(addr) {
                let fix = match e.kind() {
                    ErrorKind::AddrInUse => {
                        "the port is busy; stop what listens there, or change the address".to_owned()
                    }
                    _ => format!("cannot listen there: {e}"),
                };
                return Err(format!("{}: {field}: {addr}: {fix}", file.display()));
            }
        }
    }
    Ok(())
}

struct Cluster {
    running: Vec<Running>,
    reactions: Reactions,
    /// Since the first request to stop: when the patience ends.
    stopping: Option<Instant>,
    /// The exit code, where something other than a signal decided it.
    code: Option<u8>,
    terminal: Terminal,
}

impl Cluster {
    fn start(&mut self, program: &Path, nodes: &[Node]) -> anyhow::Result<()> {
        let width = nodes.iter().map(|n| n.config.node_id.len()).max().unwrap_or(0);
        let coloured =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        for (Node { file, config }, colour) in nodes.iter().zip(COLOURS.iter().cycle()) {
            let mut child = Command::new(program)
                .arg("--config")
                .arg(file)
                .arg("--exit-with-stdin")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {} for {}", program.display(), file.display()))?;
            let prefix = match coloured {
                true => format!("\x1b[{colour}m{:width$} |\x1b[0m ", config.node_id),
                false => format!("{:width$} | ", config.node_id),
            };
            let (out, err) = (child.stdout.take(), child.stderr.take());
            // In the list before anything else can fail: whatever is in it is ended.
            let (node_id, file) = (config.node_id.clone(), file.clone());
            let (saying, said) = bounded(0);
            self.running.push(Running { node_id, file, child, said });
            let sources = [out.map(|o| Box::new(o) as Box<dyn Read + Send>), err.map(|e| Box::new(e) as _)];
            for source in sources.into_iter().flatten() {
                let (prefix, terminal, saying) = (prefix.clone(), self.terminal.clone(), saying.clone());
                thread::Builder::new().name("lines".to_owned()).spawn(move || {
                    relay(source, &prefix, &terminal);
                    drop(saying);
                })?;
            }
        }
        let process =
            |Running { node_id, child, .. }: &Running| format!("{node_id} is process {}", child.id());
        let processes: Vec<String> = self.running.iter().map(process).collect();
        self.terminal.say(&processes.join(", "));
        Ok(())
    }

    /// Reaps children and passes signals on until none is left.
    fn supervise(&mut self, queue: &Receiver<i32>) -> ExitCode {
        loop {
            self.reap();
            if self.running.is_empty() {
                break;
            }
            let patience = match self.stopping {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            match queue.recv_timeout(patience) {
                Ok(SIGCHLD) | Err(RecvTimeoutError::Timeout) if self.stopping.is_none() => {}
                Ok(SIGCHLD) => {}
                Ok(signal) => self.react(signal),
                // Out of patience, or nobody left who could tell of signals.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let names: Vec<&str> = self.running.iter().map(|r| r.node_id.as_str()).collect();
                    self.terminal.complain(&format!("killed, as no end came in time: {}", names.join(", ")));
                    self.stop(Signal::KILL);
                    self.running.iter_mut().for_each(|r| drop(r.child.wait()));
                }
            }
        }
        if self.stopping.is_none() {
            self.terminal.complain("no node runs any more");
            return ExitCode::FAILURE;
        }
        self.terminal.say("all nodes have stopped");
        self.code.map_or(ExitCode::SUCCESS, ExitCode::from)
    }

    fn react(&mut self, signal: c_int) {
        match self.reactions.to(signal) {
            // A second one is a node's own reason to end at once.
            Action::Stop(_) | Action::EndAtOnce if signal == SIGINT => self.stop(Signal::INT),
            Action::Stop(_) | Action::EndAtOnce => self.stop(Signal::TERM),
            Action::Reopen => self.pass_on(Signal::HUP),
            Action::Ignore(name) => self.terminal.complain(&signals::ignored(name)),
            Action::Nothing => {}
        }
    }

    /// Passes a signal that ends a node on to every child. The first one starts the clock.
    fn stop(&mut self, signal: Signal) {
        self.stopping.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
        self.pass_on(signal);
    }

    fn pass_on(&self, signal: Signal) {
        for Running { child, node_id, .. } in &self.running {
            // Not reaped yet, so the number is still this child's.
            if let Err(e) = kill_process(Pid::from_child(child), signal) {
                self.terminal.complain(&format!("cannot signal {node_id}: {e}"));
            }
        }
    }

    fn reap(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            match self.running[at].child.try_wait() {
                Ok(None) => at += 1,
                Ok(Some(status)) => {
                    let ended = self.running.remove(at);
                    // The pipes are closed with the child: what it said last is printed before its end is, unless
                    // the terminal is stopped. Nothing is ever sent.
                    let _ = ended.said.recv_timeout(LAST_WORDS);
                    self.say_end(&ended.node_id, &ended.file, status);
                }
                Err(e) => {
                    let lost = self.running.remove(at);
                    self.terminal.complain(&format!("cannot wait for {}: {e}", lost.node_id));
                }
            }
        }
    }

    fn say_end(&mut self, node_id: &str, file: &Path, status: ExitStatus) {
        if self.stopping.is_some() {
            return;
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown cause".to_owned(),
        };
        if status.code() == Some(CONFIG_ERROR.into()) {
            // It has reported what is wrong; the other nodes would wait for it without end.
            self.code = Some(CONFIG_ERROR);
            self.stop(Signal::TERM);
            return;
        }
        let others = if self.running.is_empty() { "." } else { "; the others go on." };
        if let Some(3..=5) = status.code() {
            // Its data or its identity was refused: started again as it is, it would end so again.
            let text = format!("{node_id} ended ({how}){others} Its last line says why, and what to do");
            return self.terminal.say(&text);
        }
        let program = std::env::args().next().unwrap_or_else(|| "dkv-server".to_owned());
        let again = format!("{program} --config {}", file.display());
        self.terminal.say(&format!(
            "{node_id} ended ({how}){others} To start it again, in a terminal of its own: {again}"
        ));
    }
}

/// Prints a child's lines with its prefix, each in one piece.
fn relay(source: impl Read, prefix: &str, terminal: &Terminal) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        match source.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if line.last() != Some(&b'\n') {
                    line.push(b'\n');
                }
                terminal.relay(std::mem::take(&mut line));
            }
        }
    }
}

/// Says who leads, first with how long that took and what one can do then, and again whenever it changes. Says once
/// where the files do not fit the members.
fn watch_leader(nodes: &[Node], began: Instant, ends: &Receiver<()>, terminal: &Terminal) {
    let addrs: Vec<&str> = nodes.iter().map(|n| n.config.me().http_addr.as_str()).collect();
    let Ok(client) = Client::new(&addrs, Duration::from_millis(500)) else { return };
    let mut known: Option<(String, u64)> = None;
    // The members of the first answer. A node that has just begun to follow may know an old membership for a moment, so
    // a second answer must confirm it.
    let mut unconfirmed: Option<Vec<MemberInfo>> = None;
    loop {
        let pause = match known {
            None if began.elapsed() < AT_FIRST => ASK_EVERY_AT_FIRST,
            None => ASK_EVERY,
            Some(_) => WATCH_EVERY,
        };
        match ends.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let Ok(cluster) = client.cluster() else { continue };
        let Some(leader) = cluster.leader else { continue };
        // A leader that was just elected serves once it has committed an entry: a read waits for that.
        if known.is_none() && client.get(b"ready", &ReadOptions::default()).is_err() {
            continue;
        }
        if known.is_some()
            && let Some(before) = unconfirmed.take()
        {
            if before == cluster.members {
                misfits(nodes, &before).iter().for_each(|text| terminal.say(text));
            } else {
                unconfirmed = Some(cluster.members.clone());
            }
        }
        let now = (leader.node_id, cluster.term);
        if known.as_ref().is_some_and(|(_, term)| *term >= now.1) {
            continue;
        }
        let of = match cluster.members.len() {
            1 => String::new(),
            count => format!(" of {count} nodes"),
        };
        let ready = match known {
            Some(_) => String::new(),
            None => format!("; ready after {:.2} s", began.elapsed().as_secs_f64()),
        };
        terminal.say(&format!("{} leads (term {}){of}{ready}", now.0, now.1));
        if known.is_none() {
            invite(&addrs, terminal);
            unconfirmed = Some(cluster.members);
        }
        known = Some(now);
    }
}

/// Where the files are not those of the members, as after `member remove`: what differs, and what to do.
fn misfits(nodes: &[Node], members: &[MemberInfo]) -> Vec<String> {
    let no_member = nodes.iter().filter(|node| members.iter().all(|m| m.node_id != node.config.node_id));
    let no_member = no_member.map(|Node { file, config }| {
        format!("{} is no member of this cluster: leave {} out", config.node_id, file.display())
    });
    let no_file = members.iter().filter(|m| nodes.iter().all(|node| node.config.node_id != m.node_id));
    let no_file = no_file.map(|m| {
        let (name, addr) = (&m.node_id, &m.raft_addr);
        format!("{name} at {addr} is a member without a file here: start it as before, or remove it with dkv-cli member remove {name}")
    });
    no_member.chain(no_file).collect()
}

/// The client's address and three commands to try.
fn invite(addrs: &[&str], terminal: &Terminal) {
    let (first, second) = (addrs[0], addrs.get(1).unwrap_or(&addrs[0]));
    // The client's own default; any other address must be named.
    let endpoints = if first == "127.0.0.1:8081" { String::new() } else { format!(" --endpoints {first}") };
    let cli = sibling_cli();
    terminal.say(&format!("the store is at http://{first}; try in another terminal:"));
    terminal.say(&format!("    {cli}{endpoints} set greeting hello"));
    terminal.say(&format!("    curl http://{second}/v1/kv/greeting"));
    terminal.say(&format!("    {cli}{endpoints} status"));
    terminal.say(match addrs {
        [_] => "Ctrl-C stops the node; its data stays",
        _ => "Ctrl-C stops all nodes; their data stays",
    });
}

/// How to call the client that lies beside this program.
fn sibling_cli() -> String {
    let program = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let sibling = program.with_file_name("dkv-cli");
    if program.components().count() > 1 && sibling.exists() {
        return sibling.display().to_string();
    }
    "dkv-cli".to_owned()
}

/// Before anything runs.
fn refuse(text: &str) {
    let _ = writeln!(io::stderr().lock(), "dkv-server: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        let text = format!(
            "node_id: {name}\ndata_dir: data\npeers: [{{ node_id: {name}, raft_addr: \"h:1\", http_addr: \"h:2\" }}]\n"
        );
        Node {
            file: format!("{name}.yaml").into(),
            config: Config::parse(&text, "test").expect("a configuration"),
        }
    }

    fn member(name: &str) -> MemberInfo {
        MemberInfo {
            node_id: name.to_owned(),
            member_id: None,
            raft_addr: format!("{name}:1"),
            http_addr: format!("{name}:2"),
            voter: true,
            promote: false,
        }
    }

    #[test]
    fn misfits_name_each_file_without_a_member_and_each_member_without_a_file() {
        let nodes = [node("n1"), node("n2")];
        assert_eq!(misfits(&nodes, &[member("n1"), member("n2")]), Vec::<String>::new());
        assert_eq!(
            misfits(&nodes, &[member("n1"), member("n3")]),
            [
                "n2 is no member of this cluster: leave n2.yaml out",
                "n3 at n3:1 is a member without a file here: start it as before, or remove it with dkv-cli member remove n3",
            ]
        );
    }
}
