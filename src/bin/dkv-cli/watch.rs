//! `dkv-cli watch`: changes as they come, printed, or given to a command one revision at a time.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use dkv::api::{ErrorCode, WatchReply};
use dkv::client::{Client, ClientError, Watch, WatchEvent, WatchKeys, WatchOptions};

use crate::failure::Failure;
use crate::output::Printer;
use crate::text::printable;

/// What is done with each revision.
pub struct Plan<'a> {
    /// The command and its arguments; without one the changes are printed.
    pub command: &'a [OsString],
    /// Whether a command that fails ends nothing.
    pub keep_going: bool,
}

/// Watches until the program is ended, a command fails, or changes are missed.
pub fn run(
    client: &Arc<Client>,
    keys: WatchKeys,
    options: WatchOptions,
    plan: &Plan<'_>,
    printer: &Printer,
) -> Result<(), Failure> {
    for event in Watch::open(client.clone(), keys, options)? {
        match event {
            Ok(event) => {
                if !tell(event, plan, printer)? {
                    return Ok(());
                }
            }
            Err(error @ ClientError::Refused(_)) => return Err(missed(error)),
            Err(error @ ClientError::Invalid(_)) => return Err(error.into()),
            Err(error) => eprintln!("dkv-cli: no node answers, trying again: {error}"),
        }
    }
    Ok(())
}

fn missed(error: ClientError) -> Failure {
    if let ClientError::Refused(detail) = &error
        && detail.code == ErrorCode::Compacted
    {
        eprintln!("dkv-cli: changes were missed: read the present state, then watch from its revision on");
    }
    error.into()
}

/// Whether to go on.
fn tell(event: WatchEvent, plan: &Plan<'_>, printer: &Printer) -> Result<bool, Failure> {
    let WatchEvent { revision, changes } = event;
    let next = Some(revision + 1);
    if let Some((program, arguments)) = plan.command.split_first() {
        let reply = WatchReply { revision, next, changes };
        let status = give(program, arguments, &reply)?;
        if status.success() {
            return Ok(true);
        }
        eprintln!("dkv-cli: revision {revision}: {} ended with {status}", program.display());
        return match plan.keep_going {
            true => Ok(true),
            false => {
                Err(Failure::Silent(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
            }
        };
    }
    if printer.is_json() {
        let reply = WatchReply { revision, next, changes };
        let line = serde_json::to_string(&reply).expect("changes are JSON") + "\n";
        return printer.offer(line.as_bytes());
    }
    let mut text = String::new();
    for change in changes {
        let key = printable(&change.key);
        // A String takes everything.
        let _ = match &change.put {
            Some(put) => writeln!(text, "{revision}\tput\t{key}\t{}", printable(&put.value)),
            None => writeln!(text, "{revision}\tdelete\t{key}"),
        };
    }
    printer.offer(text.as_bytes())
}

/// Runs a command with the event on its standard input, and waits for its end.
fn give(program: &OsString, arguments: &[OsString], reply: &WatchReply) -> Result<ExitStatus, Failure> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("DKV_REVISION", reply.revision.to_string())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| ClientError::Invalid(format!("{} cannot be run: {e}", program.display())))?;
    let event = serde_json::to_string(reply).expect("changes are JSON") + "\n";
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read it needs no event.
        let _ = input.write_all(event.as_bytes());
    }
    child.wait().map_err(Failure::Output)
}
