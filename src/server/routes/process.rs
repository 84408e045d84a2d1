//! What the operating system says of this process. Read from `/proc`; what cannot be read is 0.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Processor time of all its threads, ended ones included.
    pub cpu: Duration,
    /// When it started, in seconds of Unix time.
    pub started_unix_seconds: f64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// Address space in use, in bytes.
    pub virtual_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many may be open at most.
    pub max_fds: u64,
}

/// This process, now.
pub(super) fn usage() -> Usage {
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| field(&status, name);
    // The listing's own descriptor is one of them.
    let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |fds| (fds.count() as u64).saturating_sub(1));
    Usage {
        cpu,
        started_unix_seconds: started().unwrap_or_default(),
        resident_bytes: field("VmRSS:") * 1_024,
        virtual_bytes: field("VmSize:") * 1_024,
        threads: field("Threads:"),
        open_fds,
        max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// The number after `name` in `/proc/self/status`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Field 22 of `/proc/self/stat` counts hundredths of a second (on every Linux that Rust runs on) since boot.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything, so counting begins after it.
    let after_name = stat.rsplit_once(')')?.1;
    let ticks: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let age = since_boot.checked_sub(Duration::from_millis(ticks * 10))?;
    Some(now.checked_sub(age)?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_this_process_is_plausible() {
        let file = fs::File::open("/proc/self/stat").unwrap();
        let before = usage();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(before.open_fds >= 4 && before.max_fds >= before.open_fds, "{before:?}");
        assert!(
            before.resident_bytes > 1 << 20 && before.virtual_bytes >= before.resident_bytes,
            "{before:?}"
        );
        assert!(before.threads >= 1, "{before:?}");
        assert!((now - 3_600.0..=now + 1.0).contains(&before.started_unix_seconds), "{before:?}");
        drop(file);
        let mut spun = 0u64;
        while usage().cpu <= before.cpu && spun < 1 << 20 {
            spun += 1;
        }
        assert!(usage().cpu > before.cpu);
    }

    #[test]
    fn field_finds_the_number_and_nothing_else() {
        let status = "VmSize:\t  2048 kB\nVmRSS:\t 12 kB\nThreads:\tx\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:"), field(status, "Gone:")), (12, 0, 0));
    }
}
