//! System calls of a running process that fail, kill it or take long: strace, attached from outside.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long attaching may take.
const ATTACH_PATIENCE: Duration = Duration::from_secs(10);

/// An strace that is attached; detached when it is dropped.
pub struct Injection {
    strace: Child,
}

impl Injection {
    /// Attaches to `pid` with the given fault, `fdatasync:error=EIO:when=3` for instance.
    pub fn attach(pid: u32, fault: &str) -> Result<Injection, String> {
        let call = fault.split(':').next().expect("a system call");
        let strace = Command::new("strace")
            .args([
                "-f",
                "-q",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={fault}"),
            ])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("strace does not start: {e}"))?;
        let mut injection = Injection { strace };
        let deadline = Instant::now() + ATTACH_PATIENCE;
        while !is_traced(pid) {
            if let Ok(Some(status)) = injection.strace.try_wait() {
                let mut said = String::new();
                let _ = injection.strace.stderr.take().expect("piped").read_to_string(&mut said);
                // The process may have been faster than we: attached, killed and gone.
                if !fs::exists(format!("/proc/{pid}/status")).unwrap_or(false) || is_zombie(pid) {
                    return Ok(injection);
                }
                return Err(format!("strace ended: {status}: {}", said.trim()));
            }
            if is_zombie(pid) {
                return Ok(injection);
            }
            if Instant::now() > deadline {
                return Err("strace was not attached in time".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(injection)
    }
}

fn status_field(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

fn is_traced(pid: u32) -> bool {
    status_field(pid, "TracerPid:").is_some_and(|tracer| tracer != "0")
}

fn is_zombie(pid: u32) -> bool {
    status_field(pid, "State:").is_none_or(|state| state.starts_with('Z'))
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It lets go of what it traces.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}
