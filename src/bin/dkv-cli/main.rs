//! The command line client.

#![forbid(unsafe_code)]

mod cli;
mod export;
mod failure;
mod history;
mod import;
mod interrupt;
mod lease;
mod list;
mod member;
mod output;
mod progress;
mod snapshot;
mod status;
mod text;
mod txn;
mod verify;
mod verify_leases;
mod verify_watches;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use dkv::api::ChangeKind;
use dkv::client::{
    Client, ClientError, Filters, KeyLease, ListOptions, RangeOptions, ReadOptions, WatchKeys, WatchOptions,
    WriteOptions,
};

use cli::{Cli, Command, Shell};
use failure::Failure;
use output::Printer;

/// Most bytes taken from standard input; servers refuse smaller values already.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// For how long an endpoint is asked for its cluster, to compare it with the others. A machine that does not answer at all
/// delays the end of a command by this at most.
const COMPARE_PATIENCE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new(cli.output);
    let code = match run(&cli, &printer) {
        Ok(()) => 0,
        Err(failure) => {
            printer.failure(&failure);
            failure.exit_code()
        }
    };
    ExitCode::from(code)
}

fn run(cli: &Cli, printer: &Printer) -> Result<(), Failure> {
    if let Command::Completion { shell } = cli.command {
        return printer.bytes(&completion(shell));
    }
    if let Command::Snapshot(cli::Snapshot::Status { file }) = &cli.command {
        return snapshot::status(file, printer);
    }
    let client = Client::new(&cli.endpoints, cli.timeout)?.with_notices(output::notice);
    let Some(cluster) = &cli.cluster else {
        let client = Arc::new(client);
        return thread::scope(|scope| {
            // Beside the command: endpoints of several clusters are a mistake that shows only when it hurts.
            scope.spawn(|| client.compare_endpoints(COMPARE_PATIENCE));
            ask(cli, &client, printer)
        });
    };
    ask(cli, &Arc::new(client.keep_to(cluster)?), printer)
}

/// Carries out a command that asks the cluster.
fn ask(cli: &Cli, client: &Arc<Client>, printer: &Printer) -> Result<(), Failure> {
    match &cli.command {
        Command::Set { key, value, lease, ttl, prev, condition, write } => {
            let condition = condition.condition();
            let options = WriteOptions { condition, idempotency_key: write.idempotency_key.clone() };
            let value = value_of(key, value.as_deref())?;
            let lease = lease.map(KeyLease::Attach).or(ttl.map(KeyLease::Own));
            if *prev {
                let written = client.put_prev(key.as_bytes(), &value, lease, &options)?;
                return printer.before(&written.reply);
            }
            let written = match lease {
                Some(lease) => client.put_leased(key.as_bytes(), &value, lease, &options)?,
                None => client.put(key.as_bytes(), &value, &options)?,
            };
            printer.written(&written.reply)
        }
        Command::Add { key, amount, condition, write } => {
            let condition = condition.condition();
            let options = WriteOptions { condition, idempotency_key: write.idempotency_key.clone() };
            let written = client.add(key.as_bytes(), *amount, &options)?;
            printer.added(&written.reply)
        }
        Command::Get { key, read } => match client.get(key.as_bytes(), &read_options(read))? {
            Some(record) => printer.record(&record),
            None => Err(Failure::not_found(key, read.revision)),
        },
        Command::Delete { key: None, range, prev, write, .. } => {
            let bytes =
                |bound: &Option<OsString>| bound.as_ref().map(|b| b.as_bytes().to_vec()).unwrap_or_default();
            let (prefix, start, end) = (bytes(&range.prefix), bytes(&range.start), bytes(&range.end));
            let range = RangeOptions { prefix, start, end, all: range.all };
            let options = WriteOptions { condition: None, idempotency_key: write.idempotency_key.clone() };
            if *prev {
                return printer.before(&client.delete_range_prev(&range, &options)?.reply);
            }
            let written = client.delete_range(&range, &options)?;
            printer.removed(&written.reply)
        }
        Command::Delete { key: Some(key), if_revision, if_version, prev, write, .. } => {
            let condition = cli::condition_of(*if_revision, *if_version);
            let options = WriteOptions { condition, idempotency_key: write.idempotency_key.clone() };
            if *prev {
                let reply = client.delete_prev(key.as_bytes(), &options)?.reply;
                let is_absent = reply.deleted == Some(0);
                if is_absent && !printer.is_json() {
                    return Err(Failure::not_found(key, None));
                }
                printer.before(&reply)?;
                return if is_absent { Err(Failure::Silent(1)) } else { Ok(()) };
            }
            let written = client.delete(key.as_bytes(), &options)?;
            if written.reply.deleted == 0 && !printer.is_json() {
                return Err(Failure::not_found(key, None));
            }
            printer.written(&written.reply)?;
            if written.reply.deleted == 0 { Err(Failure::Silent(1)) } else { Ok(()) }
        }
        Command::List { prefix, keys_only, limit, order, sort, separator, filters, read } => {
            let cli::RevisionFilters {
                min_mod_revision,
                max_mod_revision,
                min_create_revision,
                max_create_revision,
            } = *filters;
            let filters =
                Filters { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision };
            let options = ListOptions {
                prefix: prefix_bytes(prefix),
                descending: *order == cli::Order::Desc,
                sort: (*sort).into(),
                separator: separator.as_ref().map(|text| text.as_bytes().to_vec()).unwrap_or_default(),
                filters,
                keys_only: *keys_only,
                read: read_options(read),
                ..ListOptions::default()
            };
            list::show(client, &options, *limit, printer)
        }
        Command::Watch { prefix, key, start, end, from, filter, prev, keep_going, command } => {
            let bytes = |bound: &Option<OsString>| bound.as_ref().map(|b| b.as_bytes().to_vec());
            let keys = match (bytes(key), bytes(start), bytes(end)) {
                (Some(key), ..) => WatchKeys::Key(key),
                (None, None, None) => WatchKeys::Prefix(bytes(prefix).unwrap_or_default()),
                (None, start, end) => WatchKeys::Between(start.unwrap_or_default(), end.unwrap_or_default()),
            };
            let filter = filter.map(|kind| match kind {
                cli::Kind::Put => ChangeKind::Put,
                cli::Kind::Delete => ChangeKind::Delete,
            });
            let options = WatchOptions { from: *from, prev: *prev, filter };
            watch::run(client, keys, options, &watch::Plan { command, keep_going: *keep_going }, printer)
        }
        Command::Lease { command } => lease::run(client, command, printer),
        Command::History { key, limit, stale } => {
            history::show(client, key.as_bytes(), *limit, *stale, printer)
        }
        Command::Compact { revision } => {
            let compacted = client.compact(*revision, &WriteOptions::default())?.reply;
            match printer.is_json() {
                true => printer.json(&compacted),
                false => printer.bytes(format!("{}\n", compacted.floor).as_bytes()),
            }
        }
        Command::Txn { steps, write } => txn::run(client, steps, write.idempotency_key.as_deref(), printer),
        Command::Verify { seconds, clients, keys, history, force } => {
            let (seconds, clients, keys, history) = (*seconds, *clients, *keys, history.clone());
            let plan = verify::Plan { seconds, clients, keys, history, force: *force, timeout: cli.timeout };
            verify::run(client, &plan, printer)
        }
        Command::Status => status::show(client, cli.timeout, printer),
        Command::Member { command } => member::run(client, cli.timeout, command, printer),
        Command::Transfer { to } => member::transfer(client, cli.timeout, to.as_deref(), printer),
        Command::Snapshot(cli::Snapshot::Save { file, force }) => {
            snapshot::save(client, file, *force, printer)
        }
        Command::Export { prefix, file, force, revision } => {
            export::run(client, prefix_bytes(prefix), *revision, file.as_deref(), *force, printer)
        }
        Command::Import { file, prefix, if_absent } => {
            let prefix = prefix.as_ref().map(|p| p.as_bytes().to_vec()).unwrap_or_default();
            import::run(client, file.as_deref(), &prefix, *if_absent, printer)
        }
        Command::Snapshot(cli::Snapshot::Status { .. }) | Command::Completion { .. } => {
            unreachable!("answered without a client")
        }
    }
}

/// The bytes of a prefix in either of its forms; empty for all keys.
fn prefix_bytes(prefix: &cli::Prefix) -> Vec<u8> {
    prefix.option.as_ref().or(prefix.bare.as_ref()).map(|p| p.as_bytes().to_vec()).unwrap_or_default()
}

fn read_options(read: &cli::Read) -> ReadOptions {
    ReadOptions { stale: read.stale, revision: read.revision, min_revision: None }
}

/// The value on the command line, or that of standard input. `-` takes whatever comes, also nothing; without a value nothing
/// is a mistake: a command before the pipe that failed, or a value that was forgotten.
fn value_of(key: &OsStr, given: Option<&OsStr>) -> Result<Vec<u8>, ClientError> {
    let given = given.map(OsStrExt::as_bytes);
    if let Some(value) = given.filter(|value| *value != b"-") {
        return Ok(value.to_vec());
    }
    let input = io::stdin();
    if input.is_terminal() {
        eprintln!("dkv-cli: type the value; Ctrl-D at the start of a line ends it");
    }
    let value = read_input(input.lock())?;
    if value.is_empty() && given.is_none() {
        let key = text::printable(key.as_bytes());
        return Err(ClientError::Invalid(format!(
            "no value: none is on the command line, and standard input holds nothing.\nNothing was changed. Write \
             `dkv-cli set {key} VALUE`, or `dkv-cli set {key} \'\'` for an empty\nvalue; `dkv-cli set {key} -` stores \
             whatever standard input holds, also nothing."
        )));
    }
    Ok(value)
}

fn read_input(input: impl Read) -> Result<Vec<u8>, ClientError> {
    let mut value = Vec::new();
    input
        .take(MAX_INPUT_BYTES + 1)
        .read_to_end(&mut value)
        .map_err(|e| ClientError::Invalid(format!("standard input cannot be read: {e}")))?;
    if value.len() as u64 > MAX_INPUT_BYTES {
        let text =
            format!("standard input holds more than {MAX_INPUT_BYTES} bytes; no server takes such a value");
        return Err(ClientError::Invalid(text));
    }
    Ok(value)
}

/// The script for the shell.
fn completion(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dkv-cli", &mut script);
    if shell == clap_complete::Shell::Bash {
        // With a hyphen in the program's name its two halves call a command by different names, and nothing after the
        // command is completed (clap issue 6421). Where they agree there is nothing to replace.
        return String::from_utf8_lossy(&script).replace("dkv__subcmd__cli", "dkv__cli").into_bytes();
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn set_takes_negative_numbers_and_refuses_two_conditions() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["dkv-cli"], args].concat());
        assert!(parse(&["set", "k", "-5"]).is_ok());
        assert!(parse(&["set", "k", "--", "--if-absent"]).is_ok());
        assert!(parse(&["set", "k", "v", "--if-absent", "--if-revision", "3"]).is_err());
        assert!(parse(&["set", "k", "v", "--if-version", "0"]).is_ok());
        assert!(parse(&["set", "k", "v", "--if-version", "-1"]).is_err());
        assert!(parse(&["set", "k", "v", "--if-version", "0", "--if-absent"]).is_err());
        assert!(parse(&["set", "k", "v", "--if-version", "1", "--if-revision", "3"]).is_err());
        assert!(parse(&["add", "k"]).is_ok() && parse(&["add", "k", "-9223372036854775807"]).is_ok());
        for bad in ["-9223372036854775808", "9223372036854775808", "1.5", "x", ""] {
            assert!(parse(&["add", "k", bad]).is_err(), "{bad}");
        }
        assert!(parse(&["add"]).is_err() && parse(&["add", "k", "1", "--if-version", "0"]).is_ok());
        assert!(parse(&["get", "k", "--nodes", "a:1,b:2", "-o", "json"]).is_ok());
        assert!(parse(&["get", "k", "--timeout", "0"]).is_err());
        assert!(parse(&["get", "k", "--timeout", "nan"]).is_err());
        assert!(parse(&["get"]).is_err());
        assert!(
            parse(&["member", "add", "n6", "--raft-addr", "a:1", "--http-addr", "a:2", "--learner"]).is_ok()
        );
        assert!(parse(&["member", "add", "n6", "--raft-addr", "a:1"]).is_err());
        assert!(
            parse(&["member", "replace", "n3", "n3"]).is_ok() && parse(&["member", "replace", "n3"]).is_err()
        );
        assert!(parse(&["transfer"]).is_ok() && parse(&["transfer", "n2"]).is_ok());
        assert!(parse(&["list", "--limit", "0"]).is_err());
        assert!(
            parse(&["verify", "--seconds", "1", "--clients", "2", "--keys", "3", "--history", "h"]).is_ok()
        );
        assert!(parse(&["verify", "--clients", "0"]).is_err());
        assert!(parse(&["list", "p", "--order", "desc", "--keys-only"]).is_ok());
        assert!(parse(&["ls", "p", "--separator", "/", "--min-mod-revision", "3"]).is_ok());
        assert!(parse(&["ls", "--sort", "mod_revision", "--order", "desc"]).is_ok());
        assert!(parse(&["ls", "--sort", "name"]).is_err());
        assert!(parse(&["ls", "--sort", "version", "--separator", "/"]).is_err());
        assert!(parse(&["ls", "--max-create-revision", "-1"]).is_err());
    }

    #[test]
    fn txn_keeps_the_steps_in_the_order_of_the_command_line() {
        let line = [
            "dkv-cli",
            "txn",
            "--get",
            "a",
            "--if",
            "a = 1",
            "--else-get",
            "c",
            "--put",
            "a=2",
            "--get",
            "a",
            "--if",
            "b exists",
        ];
        let Command::Txn { steps, .. } = Cli::try_parse_from(line).expect("a good line").command else {
            panic!("a transaction")
        };
        let words = |steps: &[cli::txn::Step]| -> Vec<(cli::txn::What, String)> {
            steps.iter().map(|step| (step.what, step.operand.to_string_lossy().into_owned())).collect()
        };
        let get = |key: &str| (cli::txn::What::Get, key.to_owned());
        assert_eq!(words(&steps.then), [get("a"), (cli::txn::What::Put, "a=2".to_owned()), get("a")]);
        assert_eq!((words(&steps.otherwise), steps.conditions.len()), (vec![get("c")], 2));
        let Command::Txn { steps, .. } = Cli::try_parse_from(["dkv-cli", "txn"]).expect("JSON").command
        else {
            panic!("a transaction")
        };
        assert_eq!(steps, cli::Steps::default());
    }

    #[test]
    fn list_and_export_take_their_prefix_with_and_without_its_name_and_only_once() {
        let prefix = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["dkv-cli"], args].concat()).map_err(|e| e.kind())?;
            match cli.command {
                Command::List { prefix, .. } | Command::Export { prefix, .. } => Ok(prefix_bytes(&prefix)),
                _ => unreachable!("no other command is parsed here"),
            }
        };
        for name in ["list", "export"] {
            assert_eq!(prefix(&[name]), Ok(b"".to_vec()));
            assert_eq!(prefix(&[name, "p"]), Ok(b"p".to_vec()));
            assert_eq!(prefix(&[name, "--prefix", "p"]), Ok(b"p".to_vec()));
            assert_eq!(prefix(&[name, "--prefix", "p", "q"]), Err(clap::error::ErrorKind::ArgumentConflict));
        }
    }

    #[test]
    fn delete_takes_a_key_or_a_range_and_never_both_or_neither() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["dkv-cli", "delete"], args].concat()).is_ok();
        for args in [
            &["k"][..],
            &["--prefix", "p"],
            &["--start", "a", "--end", "b"],
            &["--all"],
            &["k", "--if-revision", "3"],
            &["k", "--if-version", "3"],
        ] {
            assert!(parse(args), "{args:?}");
        }
        for args in [
            &[][..],
            &["k", "--prefix", "p"],
            &["k", "--all"],
            &["--all", "--prefix", "p"],
            &["--all", "--end", "p"],
            &["--prefix", "p", "--if-revision", "3"],
            &["--if-revision", "3"],
            &["--prefix", "p", "--if-version", "3"],
            &["k", "--if-version", "3", "--if-revision", "3"],
        ] {
            assert!(!parse(args), "{args:?}");
        }
    }
}
