//! One node, from start to stop.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::CONFIG_ERROR;
use crate::join::Join;
use crate::signals::Caught;
use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded, select};
use dkv::config::Config;
use dkv::server::{Server, StartWait};

/// How long requests in flight may take to finish once the node is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How a run ended.
pub enum End {
    /// With 0 after an orderly stop, else with the code of the failure, which is in the log.
    Stopped(ExitCode),
    /// Before it began: this machine does not allow what the configuration says.
    Refused(String),
}

/// Serves, and joins a cluster before if it is to, until a signal, the end of standard input (with `exit_with_stdin`), or a failure.
pub fn run(
    caught: Caught,
    config: Config,
    join: Option<Join>,
    restore: Option<&Path>,
    exit_with_stdin: bool,
) -> anyhow::Result<End> {
    let signals = caught.watch().context("cannot watch for signals")?;
    let stdin_end = if exit_with_stdin { watch_stdin()? } else { crossbeam_channel::never() };
    let own = config.me().clone();
    let mut wait = StartWait::new(Duration::from_secs(config.start_timeout_s), |time| {
        select! {
            recv(signals) -> name => say_signal(name.ok()),
            recv(stdin_end) -> _ => say_stdin_end(),
            default(time) => return false,
        }
        true
    });
    let server = match Server::start(config, join.is_some(), restore, &mut wait) {
        Ok(server) => server,
        Err(e) if e.exit_code == 0 => return Ok(End::Stopped(ExitCode::SUCCESS)),
        Err(e) if e.exit_code == CONFIG_ERROR => return Ok(End::Refused(e.text)),
        Err(e) => return Ok(fail(&e.text, e.exit_code)),
    };
    // A node that was let in before just runs.
    let refusals = match (join, server.joining()) {
        (Some(join), Some(joining)) => join.spawn(&own, joining).context("cannot start a thread")?,
        _ => crossbeam_channel::never(),
    };
    let failed = select! {
        recv(server.failures()) -> failure => failure.ok(),
        recv(refusals) -> refusal => refusal.ok(),
        recv(signals) -> name => {
            say_signal(name.ok());
            None
        }
        recv(stdin_end) -> _ => {
            say_stdin_end();
            None
        }
    };
    server.stop(STOP_GRACE);
    Ok(match failed {
        Some(e) => fail(&e.text, e.exit_code),
        None => {
            log::info!("stopped");
            End::Stopped(ExitCode::SUCCESS)
        }
    })
}

fn say_signal(name: Option<&str>) {
    log::info!("{}: stopping; a second signal ends at once", name.unwrap_or("signal"));
}

fn say_stdin_end() {
    log::info!("the supervisor is gone: stopping");
}

fn fail(text: &str, exit_code: u8) -> End {
    log::error!("{text}");
    End::Stopped(ExitCode::from(exit_code))
}

/// Tells when standard input ends: a supervisor holds the other end of the pipe, and the kernel closes it however the
/// supervisor dies.
fn watch_stdin() -> anyhow::Result<Receiver<()>> {
    let (sender, receiver) = bounded(1);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 256];
        while std::io::stdin().read(&mut buffer).is_ok_and(|n| n > 0) {}
        let _ = sender.send(());
    })?;
    Ok(receiver)
}
