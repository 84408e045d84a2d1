//! Real `dkv-server` processes on a loopback address of their own, and a client that speaks to them byte by byte.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT};

/// How long a test waits for a condition before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Makes SIGHUP and SIGINT mean for the processes that are started from now on what they mean in a window, also when the
/// tests run under `nohup` or in the background of a script: a signal with a handler has its default meaning again after an
/// exec, an ignored one stays ignored. For the tests themselves both keep their default meaning.
pub fn hear_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGHUP, SIGINT] {
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).unwrap();
        }
    });
}

/// Waits until `condition` gives a value; the only way in which these tests wait. Fails after [`PATIENCE`] with what
/// `describe` says.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each cluster of a test run has an address of its own, so that suites run side by side: the process id chooses the
/// middle bytes, a counter the last one.
pub fn fresh_ip() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let pid = std::process::id();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(next < 250, "more clusters than addresses");
    format!("127.{}.{}.{next}", 100 + (pid >> 8) % 100, pid % 256)
}

/// How one member of a test cluster is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Extra lines of its configuration file.
    pub extra: String,
    /// What the others are told as its `raft_addr`, when that is not where it listens.
    pub advertised_raft: Vec<Option<String>>,
    /// How many of the nodes bootstrap the cluster, the first ones; None: all of them. The others have no
    /// configuration.
    pub initial_members: Option<usize>,
}

/// Some processes, their files, and the address they share. Dropped, it ends every process it started.
pub struct Cluster {
    pub dir: PathBuf,
    pub ip: String,
    size: usize,
    children: Vec<Option<Child>>,
    /// Which program a node runs where that is not this build's.
    programs: Vec<Option<PathBuf>>,
    _temp: tempfile::TempDir,
}

impl Cluster {
    /// Writes the configuration of `size` nodes and starts nothing.
    pub fn prepare(size: usize, setup: &Setup) -> Cluster {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (dir, ip) = (temp.path().to_owned(), fresh_ip());
        let children = (0..size).map(|_| None).collect();
        let cluster = Cluster { dir, ip, size, children, programs: vec![None; size], _temp: temp };
        for n in 0..setup.initial_members.unwrap_or(size) {
            cluster.write_config(n, setup);
        }
        cluster
    }

    /// Starts a cluster of `initial_members` nodes with room for others, up to `size`.
    pub fn start_with_room(initial_members: usize, size: usize) -> Cluster {
        let mut cluster =
            Cluster::prepare(size, &Setup { initial_members: Some(initial_members), ..Setup::default() });
        (0..initial_members).for_each(|n| cluster.spawn(n));
        cluster.wait_for_leader();
        cluster.wait_for_ready();
        cluster
    }

    /// Starts `size` nodes and waits until each of them serves.
    pub fn start(size: usize) -> Cluster {
        Cluster::start_with(size, &Setup::default())
    }

    /// The same, patient with a busy machine: for tests that mean to see no election but the first.
    pub fn start_calm(size: usize) -> Cluster {
        let extra = "election_timeout_ms: 2000\n".to_owned();
        Cluster::start_with(size, &Setup { extra, ..Setup::default() })
    }

    /// The same, set up like this.
    pub fn start_with(size: usize, setup: &Setup) -> Cluster {
        let mut cluster = Cluster::prepare(size, setup);
        for n in 0..size {
            cluster.spawn(n);
        }
        cluster.wait_for_leader();
        cluster.wait_for_ready();
        cluster
    }

    pub fn write_config(&self, n: usize, setup: &Setup) {
        let mut text = format!("node_id: {}\ndata_dir: {}\n", self.name(n), self.data_dir(n).display());
        text.push_str(&setup.extra);
        text.push_str("peers:\n");
        for peer in 0..setup.initial_members.unwrap_or(self.size) {
            let raft =
                setup.advertised_raft.get(peer).cloned().flatten().unwrap_or_else(|| self.raft_addr(peer));
            let (name, http) = (self.name(peer), self.http_addr(peer));
            text.push_str(&format!(
                "  - {{ node_id: {name}, raft_addr: \"{raft}\", http_addr: \"{http}\" }}\n"
            ));
        }
        if setup.advertised_raft.get(n).cloned().flatten().is_some() {
            text.push_str(&format!("listen_raft: \"{}\"\n", self.raft_addr(n)));
        }
        fs::write(self.config_path(n), text).expect("a configuration file");
    }

    pub fn name(&self, n: usize) -> String {
        format!("node{}", n + 1)
    }

    pub fn config_path(&self, n: usize) -> PathBuf {
        self.dir.join(format!("{}.yaml", self.name(n)))
    }

    pub fn data_dir(&self, n: usize) -> PathBuf {
        self.dir.join(self.name(n))
    }

    pub fn log_path(&self, n: usize) -> PathBuf {
        self.dir.join(format!("{}.log", self.name(n)))
    }

    pub fn http_addr(&self, n: usize) -> String {
        format!("{}:{}", self.ip, 8081 + n)
    }

    pub fn raft_addr(&self, n: usize) -> String {
        format!("{}:{}", self.ip, 18081 + n)
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// The nodes whose processes run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.size).filter(|&n| self.children[n].is_some()).collect()
    }

    /// From its next start on node `n` runs this program; None: this build's.
    pub fn set_program(&mut self, n: usize, program: Option<PathBuf>) {
        self.programs[n] = program;
    }

    /// Starts node `n` with more on its command line.
    pub fn spawn_with(&mut self, n: usize, args: &[&str]) {
        assert!(self.children[n].is_none(), "{} runs already", self.name(n));
        self.children[n] = Some(self.command(n).args(args).spawn().expect("dkv-server starts"));
    }

    /// Starts node `n`; its output is appended to its log file.
    pub fn spawn(&mut self, n: usize) {
        assert!(self.children[n].is_none(), "{} runs already", self.name(n));
        self.children[n] = Some(self.command(n).spawn().expect("dkv-server starts"));
    }

    /// Starts node `n`, which joins through node `through`.
    pub fn spawn_to_join(&mut self, n: usize, through: usize, more: &[&str]) {
        assert!(self.children[n].is_none(), "{} runs already", self.name(n));
        let mut command = self.server(n);
        command.args(["--join", &self.http_addr(through), "--node-id", &self.name(n)]);
        command.args(["--raft-addr", &self.raft_addr(n), "--http-addr", &self.http_addr(n)]);
        command.arg("--data-dir").arg(self.data_dir(n)).args(more);
        self.children[n] = Some(command.spawn().expect("dkv-server starts"));
    }

    pub fn command(&self, n: usize) -> Command {
        let mut command = self.server(n);
        command.arg("--config").arg(self.config_path(n));
        command
    }

    fn server(&self, n: usize) -> Command {
        let log = File::options().create(true).append(true).open(self.log_path(n)).expect("a log file");
        let program = self.programs[n].clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_dkv-server").into());
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        command
    }

    /// Runs a server that is expected to end by itself.
    pub fn run_to_end(&self, config: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        command.arg("--config").arg(config).stdin(Stdio::null()).output().expect("dkv-server starts")
    }

    /// kill -9, and wait until the process is gone.
    pub fn kill(&mut self, n: usize) {
        let mut child = self.children[n].take().expect("it runs");
        child.kill().expect("kill -9");
        child.wait().expect("it is gone");
    }

    /// Runs `dkv-cli` with node 0 as its endpoint: the exit code, and everything that it printed.
    pub fn cli(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
        let output = command.env("DKV_ENDPOINTS", self.http_addr(0)).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    pub fn pid(&self, n: usize) -> u32 {
        self.children[n].as_ref().expect("it runs").id()
    }

    /// Sends a signal by its number.
    pub fn signal(&self, n: usize, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid(n).to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self, n: usize) -> ExitStatus {
        self.signal(n, "TERM");
        self.wait_exit(n)
    }

    /// The exit status of a process that ends by itself.
    pub fn wait_exit(&mut self, n: usize) -> ExitStatus {
        let child = self.children[n].as_mut().expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                self.children[n] = None;
                return status;
            }
            if Instant::now() >= deadline {
                panic!("{} does not end:\n{}", self.name(n), self.log(n));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit status of a process that has ended by itself.
    pub fn ended(&mut self, n: usize) -> Option<ExitStatus> {
        let status = self.children[n].as_mut()?.try_wait().expect("its status")?;
        self.children[n] = None;
        Some(status)
    }

    pub fn log(&self, n: usize) -> String {
        fs::read_to_string(self.log_path(n)).unwrap_or_default()
    }

    /// One request on a connection of its own.
    pub fn request(
        &self,
        n: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        Connection::open(&self.http_addr(n))?.request(method, path, headers, body)
    }

    pub fn get(&self, n: usize, key: &str) -> io::Result<Answer> {
        self.request(n, "GET", &format!("/v1/kv/{key}"), &[], b"")
    }

    pub fn put(&self, n: usize, key: &str, value: &str) -> io::Result<Answer> {
        self.request(n, "PUT", &format!("/v1/kv/{key}"), &[], value.as_bytes())
    }

    /// `GET /v1/status` as JSON.
    pub fn status(&self, n: usize) -> Option<serde_json::Value> {
        let answer = self.request(n, "GET", "/v1/status", &[], b"").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The node that leads, in the eyes of a node that leads: a linearizable read on it works.
    pub fn leader(&self) -> Option<usize> {
        self.running().into_iter().find(|&n| {
            self.status(n).is_some_and(|s| s["role"] == "leader")
                && self.get(n, "no-such-key").is_ok_and(|a| a.status == 404)
        })
    }

    pub fn wait_for_leader(&self) -> usize {
        wait_for(&format!("a leader; logs in {}", self.dir.display()), || {
            for n in self.running() {
                if !Path::new(&format!("/proc/{}/stat", self.pid(n))).exists() {
                    panic!("{} died:\n{}", self.name(n), self.log(n));
                }
            }
            self.leader()
        })
    }

    /// Waits until every running node is ready: on a busy machine one may be initialized long after the first leader.
    pub fn wait_for_ready(&self) {
        wait_for("every running node ready", || {
            let is_ready = |n| self.request(n, "GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200);
            self.running().into_iter().all(is_ready).then_some(())
        });
    }

    /// Waits until every running node has applied the same index and says the same hash of its state.
    pub fn wait_for_equal_state(&self) {
        wait_for("equal state on every running node", || {
            let all: Option<Vec<_>> = self.running().into_iter().map(|n| self.status(n)).collect();
            let all = all?;
            let first = all.first()?;
            all.iter()
                .all(|s| s["applied"] == first["applied"] && s["state_hash"] == first["state_hash"])
                .then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for n in 0..self.size {
                let log = self.log(n);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("---- {} ----", self.name(n));
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `outcome` of an error answer.
    pub fn outcome(&self) -> String {
        self.json()["error"]["outcome"].as_str().unwrap_or_default().to_owned()
    }
}

/// A keep-alive connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: &str) -> io::Result<Connection> {
        let mut connection = Connection::open_within(addr, Duration::from_secs(2))?;
        connection.set_timeout(Duration::from_secs(20))?;
        Ok(connection)
    }

    /// Opens one, and waits no longer than `timeout` for it nor for anything that is read from it.
    pub fn open_within(addr: &str, timeout: Duration) -> io::Result<Connection> {
        let addr: SocketAddr = addr.parse().expect("an address");
        Connection::over_within(TcpStream::connect_timeout(&addr, timeout)?, timeout)
    }

    /// Speaks over a stream that is connected already.
    pub fn over(stream: TcpStream) -> io::Result<Connection> {
        Connection::over_within(stream, Duration::from_secs(20))
    }

    fn over_within(stream: TcpStream, timeout: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream: BufReader::new(stream) };
        connection.set_timeout(timeout)?;
        Ok(connection)
    }

    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nHost: dkv\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut bytes = (bytes + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)?;
        self.read_answer()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Makes the end of this connection a reset instead of an orderly one.
    pub fn reset(&mut self) {
        let socket = socket2::SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// A HEAD request: its answer has a length and no body.
    pub fn head(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        let mut text = format!("HEAD {path} HTTP/1.1\r\nHost: dkv\r\n");
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        self.send((text + "\r\n").as_bytes())?;
        self.read_head()
    }

    pub fn read_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.read_head()?;
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let length = answer.header("Content-Length").and_then(|value| value.parse().ok());
        answer.body = vec![0; length.ok_or_else(|| bad("no length"))?];
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    fn read_head(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad(&line))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Answer { status, headers, body: Vec::new() })
    }
}
