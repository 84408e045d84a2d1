//! The signals: one set for `dkv-server` in all its forms.
//!
//! | signal | a node | `cluster` | the commands that end by themselves |
//! |---|---|---|---|
//! | SIGTERM, SIGINT | stop; the second one ends at once | the same, passed on to every node | end at once |
//! | SIGHUP | open the log file again; stop when a window was closed | stop: the window was closed | end at once |
//! | SIGUSR1, SIGUSR2 | ignored with a line | the same | the same |
//! | SIGXFSZ | the write fails, and its error says so | the same | the same |
//!
//! The default action of every one of them ends a process without a word.

use std::ffi::c_int;
use std::io::{self, IsTerminal};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

const HANDLED: [c_int; 6] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ];

/// What SIGHUP means to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// Its window was closed: stop.
    Stops,
    /// Somebody has moved the log file away: open it again.
    Reopens,
}

/// What is to be done about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop in order; the name is that of the signal.
    Stop(&'static str),
    /// End without waiting: the stop is under way already.
    EndAtOnce,
    /// Open the log file again.
    Reopen,
    /// Nothing but a line.
    Ignore(&'static str),
    /// Nothing.
    Nothing,
}

/// The signals of this process, kept from their default action from now on.
pub struct Caught {
    /// They arrive here.
    pub signals: Signals,
    /// What they ask for.
    pub reactions: Reactions,
}

/// What each signal asks for, given those before it.
pub struct Reactions {
    hangup: Hangup,
    is_stopping: bool,
}

impl Caught {
    /// For a node. Called before anything else is done, so that no signal finds the default action.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn for_node() -> io::Result<Caught> {
        // Looked at now: a terminal that has hung up is none any more.
        Caught::with(if io::stderr().is_terminal() { Hangup::Stops } else { Hangup::Reopens }, &[])
    }

    /// For a process in the foreground, with any kind of output. It also takes the signals in `more`.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn in_foreground(more: &[c_int]) -> io::Result<Caught> {
        Caught::with(Hangup::Stops, more)
    }

    fn with(hangup: Hangup, more: &[c_int]) -> io::Result<Caught> {
        // For instance nohup: the user that started this process wants it to survive the end of the terminal.
        let hangup = if is_ignored(SIGHUP) { Hangup::Reopens } else { hangup };
        let signals = Signals::new(HANDLED.iter().chain(more))?;
        Ok(Caught { signals, reactions: Reactions { hangup, is_stopping: false } })
    }

    /// Watches in a thread of its own. The receiver gets the name of the first signal that stops the node. The second one
    /// ends the process at once, whatever the rest of it is doing: recovering a long log, or waiting for a disk that hangs.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(mut self) -> io::Result<Receiver<&'static str>> {
        let (sender, receiver) = bounded(1);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in self.signals.forever() {
                match self.reactions.to(signal) {
                    Action::Stop(name) => drop(sender.try_send(name)),
                    Action::EndAtOnce => {
                        log::warn!("second signal: ends without waiting");
                        dkv::logging::flush(Duration::from_secs(1));
                        std::process::exit(1);
                    }
                    Action::Reopen => dkv::logging::reopen(),
                    Action::Ignore(name) => log::warn!("{}", ignored(name)),
                    Action::Nothing => {}
                }
            }
        })?;
        Ok(receiver)
    }
}

/// For a command that ends by itself: it ends at once on every signal that stops a node.
///
/// # Errors
/// The system refuses a handler or a thread.
pub fn watch_command() -> io::Result<()> {
    let mut signals = Signals::new(HANDLED)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGUSR1 | SIGUSR2 => eprintln!("dkv-server: {}", ignored(name(signal))),
                SIGXFSZ => {}
                // Whatever it does is written so that it may be killed.
                _ => drop(emulate_default_handler(signal)),
            }
        }
    })?;
    Ok(())
}

/// What is said of a signal that means nothing.
pub fn ignored(name: &str) -> String {
    format!("{name} is ignored: SIGTERM stops, SIGHUP opens the log file again")
}

impl Reactions {
    /// What `signal` asks for.
    pub fn to(&mut self, signal: c_int) -> Action {
        match signal {
            SIGUSR1 | SIGUSR2 => Action::Ignore(name(signal)),
            SIGHUP if self.hangup == Hangup::Reopens => Action::Reopen,
            // A closed window is often said twice, by the system and by the shell: no impatience.
            SIGHUP if self.is_stopping => Action::Nothing,
            SIGTERM | SIGINT | SIGHUP if self.is_stopping => Action::EndAtOnce,
            SIGTERM | SIGINT | SIGHUP => {
                self.is_stopping = true;
                Action::Stop(name(signal))
            }
            _ => Action::Nothing,
        }
    }
}

fn name(signal: c_int) -> &'static str {
    signal_name(signal).unwrap_or("signal")
}

/// Whether this process was started with the signal ignored.
fn is_ignored(signal: c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reactions(hangup: Hangup, signals: &[c_int]) -> Vec<Action> {
        let mut reactions = Reactions { hangup, is_stopping: false };
        signals.iter().map(|&signal| reactions.to(signal)).collect()
    }

    #[test]
    fn a_second_signal_ends_at_once_but_a_window_that_closes_is_said_twice() {
        use Action::{EndAtOnce, Nothing, Reopen, Stop};
        let table: [(Hangup, [c_int; 2], [Action; 2]); 7] = [
            (Hangup::Stops, [SIGTERM, SIGTERM], [Stop("SIGTERM"), EndAtOnce]),
            (Hangup::Stops, [SIGINT, SIGTERM], [Stop("SIGINT"), EndAtOnce]),
            (Hangup::Stops, [SIGHUP, SIGHUP], [Stop("SIGHUP"), Nothing]),
            (Hangup::Stops, [SIGTERM, SIGHUP], [Stop("SIGTERM"), Nothing]),
            (Hangup::Stops, [SIGHUP, SIGINT], [Stop("SIGHUP"), EndAtOnce]),
            (Hangup::Reopens, [SIGHUP, SIGHUP], [Reopen, Reopen]),
            (Hangup::Reopens, [SIGTERM, SIGHUP], [Stop("SIGTERM"), Reopen]),
        ];
        for (hangup, signals, actions) in table {
            assert_eq!(reactions(hangup, &signals), actions, "{hangup:?} {signals:?}");
        }
    }

    #[test]
    fn signals_that_mean_nothing_stop_nothing() {
        let said = reactions(Hangup::Stops, &[SIGUSR1, SIGUSR2, SIGXFSZ, SIGTERM]);
        let expected =
            [Action::Ignore("SIGUSR1"), Action::Ignore("SIGUSR2"), Action::Nothing, Action::Stop("SIGTERM")];
        assert_eq!(said, expected);
    }
}
