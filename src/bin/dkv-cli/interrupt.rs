//! A signal in the middle of a command that writes a file: what has not its name yet goes, then the process ends as the
//! signal says.

use std::thread;

use dkv::client::ClientError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;

/// Signals that end a command.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// From now on a signal removes the files that have not their names yet before it ends the process. Signals that the
/// process was started to ignore, by `nohup` for instance, stay ignored.
pub fn watch() -> Result<(), Failure> {
    let ignored = ignored_signals();
    let failed = |e: std::io::Error| {
        Failure::Client(ClientError::Invalid(format!("cannot watch for signals, nothing was written: {e}")))
    };
    let mut signals =
        Signals::new(ENDING.iter().filter(|signal| ignored >> (**signal - 1) & 1 == 0)).map_err(failed)?;
    let run = move || {
        if let Some(signal) = signals.forever().next() {
            dkv::files::remove_unfinished();
            // Never comes back; should it fail, the exit code says what the shell would.
            let _ = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(run).map(drop).map_err(failed)
}

/// The signals that are ignored, one bit each; none where the system does not say.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
