//! The command line client.

#![forbid(unsafe_code)]

mod output;
mod status;

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dkv::client::{Client, ClientError, Condition, ReadOptions, WriteOptions};

use output::{Failure, Printer};

/// Most bytes taken from standard input; servers refuse smaller values already.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// Talks to a dkv cluster.
///
/// Finds the leader by itself, tries other nodes when one does not answer, and repeats a write only under its
/// idempotency key, so that it never takes effect twice.
#[derive(Parser)]
#[command(
    name = "dkv-cli",
    version,
    after_help = "\
Exit codes: 0 done; 1 key not found, or the condition does not hold; 2 usage, or refused input; 3 unavailable, surely \
not done; 4 outcome unknown (repeat the command with the --idempotency-key it prints)."
)]
struct Cli {
    /// Nodes of the cluster, host:port, separated by commas; one suffices while it is up.
    #[arg(
        long,
        visible_alias = "nodes",
        env = "DKV_ENDPOINTS",
        value_name = "A,B,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083,127.0.0.1:8084,127.0.0.1:8085",
        global = true
    )]
    endpoints: Vec<String>,

    /// Seconds for the whole command, with all its attempts.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, global = true)]
    timeout: Duration,

    /// What to print: plain text, or the JSON of the API.
    #[arg(short, long, value_enum, default_value_t = Format::Plain, global = true)]
    output: Format,

    #[command(subcommand)]
    command: Command,
}

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people and simple scripts.
    Plain,
    /// One JSON document; errors too, on standard error.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Store a value under a key; prints OK.
    Set {
        /// The key.
        key: OsString,
        /// The value; `-`, or nothing, takes it from standard input, byte for byte.
        #[arg(allow_negative_numbers = true)]
        value: Option<OsString>,
        #[command(flatten)]
        condition: SetCondition,
        #[command(flatten)]
        write: Write,
    },
    /// Print a key's value; byte for byte unless standard output is a terminal, where a newline follows.
    Get {
        /// The key.
        key: OsString,
        /// Take what the asked node has at once, which may be old.
        #[arg(long)]
        stale: bool,
        /// Read the state at this revision of the store.
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Remove a key; prints OK, or says that the key was not there (exit code 1).
    Delete {
        /// The key.
        key: OsString,
        /// Only if the key's modification revision is N.
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// Show each node: role, term, commit, applied, lag, reachable.
    Status,
}

#[derive(Args)]
struct SetCondition {
    /// Only if the key's modification revision is N.
    #[arg(long, value_name = "N", conflicts_with = "if_absent")]
    if_revision: Option<u64>,
    /// Only if there is no such key.
    #[arg(long)]
    if_absent: bool,
}

#[derive(Args)]
struct Write {
    /// The name under which the cluster remembers the outcome, to repeat a write whose outcome is unknown.
    #[arg(long, value_name = "K")]
    idempotency_key: Option<String>,
}

/// Seconds on the command line: more than 0, at most an hour, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err("write 0.001 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

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
    let client = Client::new(&cli.endpoints, cli.timeout)?;
    match &cli.command {
        Command::Set { key, value, condition, write } => {
            let from_input;
            let value = match value.as_ref().map(|v| v.as_bytes()) {
                None | Some(b"-") => {
                    from_input = read_input(io::stdin().lock())?;
                    &from_input[..]
                }
                Some(value) => value,
            };
            let condition = match (condition.if_revision, condition.if_absent) {
                (Some(revision), _) => Some(Condition::ModRevision(revision)),
                (None, true) => Some(Condition::Absent),
                (None, false) => None,
            };
            let options = WriteOptions { condition, idempotency_key: write.idempotency_key.clone() };
            let written = client.put(key.as_bytes(), value, &options)?;
            printer.written(&written.reply)
        }
        Command::Get { key, stale, revision } => {
            let options = ReadOptions { stale: *stale, revision: *revision, min_revision: None };
            match client.get(key.as_bytes(), &options)? {
                Some(record) => printer.record(&record),
                None => Err(Failure::not_found(key)),
            }
        }
        Command::Delete { key, if_revision, write } => {
            let condition = if_revision.map(Condition::ModRevision);
            let options = WriteOptions { condition, idempotency_key: write.idempotency_key.clone() };
            let written = client.delete(key.as_bytes(), &options)?;
            if written.reply.deleted == 0 && !printer.is_json() {
                return Err(Failure::not_found(key));
            }
            printer.written(&written.reply)?;
            if written.reply.deleted == 0 { Err(Failure::Silent(1)) } else { Ok(()) }
        }
        Command::Status => status::show(&client, cli.timeout, printer),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        assert!(parse(&["get", "k", "--nodes", "a:1,b:2", "-o", "json"]).is_ok());
        assert!(parse(&["get", "k", "--timeout", "0"]).is_err());
        assert!(parse(&["get", "k", "--timeout", "nan"]).is_err());
        assert!(parse(&["get"]).is_err());
    }
}
