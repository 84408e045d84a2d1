//! Server processes on this machine, a connection that costs little, and a store with many keys.

#![allow(dead_code, reason = "each example uses a part")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process; killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it; what it says goes to the end of `log`.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Process { child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait().map(drop)
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
    }
}

/// The release build of the server, which stands beside the examples.
pub fn server() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("../dkv-server");
    if program.exists() {
        return Ok(program);
    }
    Err(io::Error::other("no dkv-server: run `cargo build --release` first"))
}

/// An empty directory below `target/`, on the disk of the sources. A directory in memory would flatter every figure.
pub fn directory() -> io::Result<tempfile::TempDir> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target)?;
    tempfile::Builder::new().prefix("example-").tempdir_in(target)
}

/// Nodes of a cluster on one address.
pub struct Addresses {
    pub ip: &'static str,
    pub nodes: usize,
}

impl Addresses {
    pub fn http(&self, n: usize) -> String {
        format!("{}:{}", self.ip, 8081 + n)
    }

    pub fn name(n: usize) -> String {
        format!("node{}", n + 1)
    }

    /// Writes the configuration of node `n`.
    pub fn write_config(&self, dir: &Path, n: usize, extra: &str) -> io::Result<PathBuf> {
        let name = Addresses::name(n);
        let mut text = format!("node_id: {name}\ndata_dir: {}\n{extra}peers:\n", dir.join(&name).display());
        for peer in 0..self.nodes {
            let raft = format!("{}:{}", self.ip, 18081 + peer);
            let (name, http) = (Addresses::name(peer), self.http(peer));
            text.push_str(&format!("  - {{ node_id: {name}, raft_addr: {raft}, http_addr: {http} }}\n"));
        }
        let file = dir.join(name).with_extension("yaml");
        fs::write(&file, text)?;
        Ok(file)
    }
}

/// A keep-alive HTTP connection with one request outstanding.
pub struct Connection {
    stream: BufReader<TcpStream>,
    addr: String,
    request: Vec<u8>,
}

impl Connection {
    pub fn open(addr: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: BufReader::new(stream), addr: addr.to_owned(), request: Vec::new() })
    }

    /// The status and the body.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        self.request.clear();
        let (addr, length) = (&self.addr, body.len());
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )?;
        self.request.extend_from_slice(body);
        self.stream.get_mut().write_all(&self.request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no answer of HTTP: {line:?}")))?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                Some((name, _)) => is_chunked |= name.eq_ignore_ascii_case("transfer-encoding"),
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        while is_chunked {
            line.clear();
            self.stream.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + length, 0);
            self.stream.read_exact(&mut body[start..])?;
            line.clear();
            self.stream.read_line(&mut line)?;
            is_chunked = length > 0;
        }
        Ok((status, body))
    }

    /// The same where only success will do.
    pub fn demand(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        match self.request(method, path, body)? {
            (200, body) => Ok(body),
            (status, body) => {
                Err(io::Error::other(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&body))))
            }
        }
    }
}

/// Tries until it succeeds.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("waited {PATIENCE:?} in vain for {what}")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The middle one, for an even number the lower of the two. Panics when there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// A look at how busy the machine's processors have been, and how much of that was this program's and its processes'
/// doing. Linux; elsewhere it sees nothing.
pub struct Busy {
    at: Instant,
    all_s: f64,
    own_s: f64,
}

impl Busy {
    pub fn look(processes: &[&Process]) -> Busy {
        let read = |file: String| fs::read_to_string(file).unwrap_or_default();
        let seconds = |fields: Option<&[&str]>| {
            fields.into_iter().flatten().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
        };
        let stat = read("/proc/stat".to_owned());
        let all: Vec<&str> = stat.lines().next().unwrap_or_default().split_whitespace().collect();
        let pids = processes.iter().map(|process| process.child.id()).chain([std::process::id()]);
        let own = pids.map(|pid| {
            let stat = read(format!("/proc/{pid}/stat"));
            let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace();
            seconds(fields.collect::<Vec<_>>().get(11..13))
        });
        // Of the fields after the name the fourth and the fifth are idle time.
        let all_s = seconds(all.get(1..9)) - seconds(all.get(4..6));
        Busy { at: Instant::now(), all_s, own_s: own.sum() }
    }

    /// How many processors were in use until `later`, by this program and its processes, and by others.
    pub fn until(&self, later: &Busy) -> (f64, f64) {
        let seconds = (later.at - self.at).as_secs_f64();
        let own = (later.own_s - self.own_s) / seconds;
        (own, ((later.all_s - self.all_s) / seconds - own).max(0.0))
    }
}
