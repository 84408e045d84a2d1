//! How long clients wait while every node of a cluster of five is restarted, one after the other, under load.
//!
//! `cargo build --release && cargo run --release --example rolling_restart -- [CLIENTS]`
//!
//! For each node: the longest time that one operation took while it was stopped and started again, and the longest time
//! in which no client was answered at all. Clients use the client library and may retry; an operation that fails ends
//! the program.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dkv::api::RoleName;
use dkv::client::{Client, ReadOptions, WriteOptions};
use rustix::process::{Pid, Signal, kill_process};

const NODES: usize = 5;
const IP: &str = "127.91.0.1";
const PATIENCE: Duration = Duration::from_secs(30);

/// One answered operation.
#[derive(Clone, Copy)]
struct Answered {
    at: Instant,
    took: Duration,
}

struct Node {
    file: PathBuf,
    program: PathBuf,
    child: Child,
}

impl Node {
    fn start(program: &Path, file: PathBuf) -> io::Result<Node> {
        let child = spawn(program, &file)?;
        Ok(Node { file, program: program.to_owned(), child })
    }

    /// SIGTERM, its end, and a start.
    fn restart(&mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("{} ended with {status}", self.file.display())));
        }
        self.child = spawn(&self.program, &self.file)?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, file: &Path) -> io::Result<Child> {
    Command::new(program).arg("--config").arg(file).stdin(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn http_addr(n: usize) -> String {
    format!("{IP}:{}", 8081 + n)
}

fn write_config(dir: &Path, n: usize) -> io::Result<PathBuf> {
    let name = |n: usize| format!("node{}", n + 1);
    let mut text = format!("node_id: {}\ndata_dir: {}\npeers:\n", name(n), dir.join(name(n)).display());
    for peer in 0..NODES {
        let (raft, http) = (format!("{IP}:{}", 18081 + peer), http_addr(peer));
        text.push_str(&format!("  - {{ node_id: {}, raft_addr: {raft}, http_addr: {http} }}\n", name(peer)));
    }
    let file = dir.join(name(n)).with_extension("yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Writes and reads until it is stopped.
fn load(client: usize, stop: &AtomicBool, answered: &Mutex<Vec<Answered>>) {
    let endpoints: Vec<String> = (0..NODES).map(http_addr).collect();
    let library = Client::new(&endpoints, PATIENCE).expect("addresses");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("load/{client}/{}", number % 100);
        let began = Instant::now();
        if number % 2 == 0 {
            library.put(key.as_bytes(), b"value", &WriteOptions::default()).expect("no write fails");
        } else {
            library.get(key.as_bytes(), &ReadOptions::default()).expect("no read fails");
        }
        answered.lock().expect("not poisoned").push(Answered { at: Instant::now(), took: began.elapsed() });
    }
}

/// Waits until the node has a leader and has applied what was committed.
fn wait_until_ready(client: &Client, n: usize) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let status = client.status(&http_addr(n), Duration::from_secs(1));
        if status.is_ok_and(|s| s.leader.is_some() && s.commit > 0 && s.applied == s.commit) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("{} is not ready", http_addr(n))))
}

fn main() -> io::Result<()> {
    let clients = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(8);
    let program = std::env::current_exe()?.with_file_name("../dkv-server");
    let dir = tempfile::tempdir()?;
    let files = (0..NODES).map(|n| write_config(dir.path(), n)).collect::<io::Result<Vec<_>>>()?;
    let mut nodes =
        files.into_iter().map(|file| Node::start(&program, file)).collect::<io::Result<Vec<_>>>()?;
    let endpoints: Vec<String> = (0..NODES).map(http_addr).collect();
    let client = Client::new(&endpoints, PATIENCE).map_err(io::Error::other)?;
    client.put(b"first", b"", &WriteOptions::default()).map_err(io::Error::other)?;

    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Answered>>>::default());
    let load_of = |n| {
        let (stop, answered) = (stop.clone(), answered.clone());
        thread::spawn(move || load(n, &stop, &answered))
    };
    let threads: Vec<_> = (0..clients).map(load_of).collect();
    thread::sleep(Duration::from_secs(1));
    println!(
        "{:<8} {:<9} {:>10} {:>16} {:>18}",
        "node", "role", "answers", "longest answer", "longest silence"
    );
    let mut windows = Vec::new();
    for (n, node) in nodes.iter_mut().enumerate() {
        let status = client.status(&http_addr(n), Duration::from_secs(1)).map_err(io::Error::other)?;
        let role = if status.role == RoleName::Leader { "leader" } else { "follower" };
        let began = Instant::now();
        node.restart()?;
        wait_until_ready(&client, n)?;
        thread::sleep(Duration::from_secs(1));
        windows.push((status.node_id, role, began, Instant::now()));
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().expect("no operation fails"));
    let answered = answered.lock().expect("not poisoned");
    for (node_id, role, began, ended) in windows {
        let during: Vec<Answered> =
            answered.iter().copied().filter(|a| a.at >= began && a.at - a.took <= ended).collect();
        let longest = during.iter().map(|a| a.took).max().unwrap_or_default();
        let silence = during.windows(2).map(|w| w[1].at.saturating_duration_since(w[0].at)).max();
        println!(
            "{node_id:<8} {role:<9} {:>10} {:>13.1} ms {:>15.1} ms",
            during.len(),
            longest.as_secs_f64() * 1e3,
            silence.unwrap_or_default().as_secs_f64() * 1e3
        );
    }
    Ok(())
}
