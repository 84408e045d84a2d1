//! The command line: what can be written, and the help that says so. The man pages are made from it too.

mod help;
mod lease;
mod member;
mod options;
mod snapshot;
pub mod txn;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use dkv::vocabulary::{LeaseId, MAX_TTL_S};

use help::{
    ADD_HELP, COMPACT_HELP, COMPLETION_HELP, DELETE_HELP, DELETE_USAGE, EXPORT_HELP, GET_HELP, HISTORY_HELP,
    IMPORT_HELP, LEASE_HELP, LIST_HELP, MAIN_HELP, MEMBER_HELP, SET_HELP, SNAPSHOT_HELP, STATUS_HELP,
    TRANSFER_HELP, TXN_HELP, TXN_USAGE, VERIFY_HELP, WATCH_HELP,
};
use options::{cluster_id, seconds};

pub use lease::Lease;
pub use member::Member;
pub use options::{
    Format, Order, Prefix, Read, RevisionFilters, SetCondition, Shell, Sort, Write, condition_of,
};
pub use snapshot::Snapshot;
pub use txn::Steps;

/// The nodes of `make cluster`.
const DEFAULT_ENDPOINTS: &str = "127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083,127.0.0.1:8084,127.0.0.1:8085";

/// Reads and writes the keys of a dkv cluster.
///
/// Finds the leader by itself, tries other nodes when one does not answer, and repeats a write only under its
/// idempotency key, so that it never takes effect twice.
#[derive(Parser)]
#[command(name = "dkv-cli", version, max_term_width = 80, after_long_help = MAIN_HELP)]
#[command(subcommand_value_name = "COMMAND")]
#[command(after_help = "`dkv-cli --help` says more; `dkv-cli help COMMAND` has examples.")]
pub struct Cli {
    /// Nodes to ask, host:port, with commas between them.
    ///
    /// One suffices while it is up: the client finds the others by itself. By default the five of `make cluster`, 127.0.0.1:8081 to
    /// 127.0.0.1:8085.
    #[arg(
        long,
        visible_alias = "nodes",
        env = "DKV_ENDPOINTS",
        hide_env_values = true,
        value_name = "NODES",
        value_hint = ValueHint::Other,
        value_delimiter = ',',
        default_value = DEFAULT_ENDPOINTS,
        hide_default_value = true,
        global = true,
        help_heading = "Global options"
    )]
    pub endpoints: Vec<String>,

    /// The cluster that is meant; nodes of another one are passed over.
    ///
    /// Its cluster id, 16 hexadecimal digits, as `dkv-cli status -o json` says it. Without this the command keeps to the
    /// cluster of the first endpoint, in the given order, that answers.
    #[arg(
        long,
        env = "DKV_CLUSTER",
        hide_env_values = true,
        value_name = "ID",
        value_hint = ValueHint::Other,
        value_parser = cluster_id,
        global = true,
        help_heading = "Global options"
    )]
    pub cluster: Option<String>,

    /// For the whole command with all its attempts.
    ///
    /// A write is not begun when its answer would come too late. At most 3600; fractions are allowed.
    #[arg(
        long,
        value_name = "SECONDS",
        value_hint = ValueHint::Other,
        default_value = "10",
        value_parser = seconds,
        global = true,
        help_heading = "Global options"
    )]
    pub timeout: Duration,

    /// What to print.
    #[arg(
        short,
        long,
        value_name = "FORM",
        value_enum,
        default_value_t = Format::Plain,
        global = true,
        help_heading = "Global options"
    )]
    pub output: Format,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which keys a removal of a range means.
#[derive(Args)]
pub struct Range {
    /// Every key that begins with this.
    #[arg(long, value_name = "PREFIX", value_hint = ValueHint::Other, conflicts_with = "key")]
    pub prefix: Option<OsString>,
    /// Every key from this one on.
    #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, conflicts_with = "key")]
    pub start: Option<OsString>,
    /// Every key before this one.
    #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, conflicts_with = "key")]
    pub end: Option<OsString>,
    /// Every key there is.
    #[arg(long, conflicts_with_all = ["key", "prefix", "start", "end"])]
    pub all: bool,
}

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// It gets a value.
    Put,
    /// It is deleted.
    Delete,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Store a value under a key; prints OK.
    #[command(after_long_help = SET_HELP)]
    Set {
        /// The key, any bytes.
        #[arg(value_hint = ValueHint::Other)]
        key: OsString,
        /// The value; `-`, or nothing, takes it from standard input, byte for byte. An empty value is ''.
        #[arg(allow_negative_numbers = true, value_hint = ValueHint::Other)]
        value: Option<OsString>,
        /// The key goes when this lease ends.
        #[arg(long, value_name = "ID", value_hint = ValueHint::Other, conflicts_with = "ttl")]
        lease: Option<LeaseId>,
        /// The key goes after so many seconds, unless it is set again.
        #[arg(long, value_name = "SECONDS", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..=MAX_TTL_S))]
        ttl: Option<u64>,
        /// Print the value that was there before, instead of OK.
        #[arg(long)]
        prev: bool,
        /// Conditions.
        #[command(flatten)]
        condition: SetCondition,
        /// How the write is named.
        #[command(flatten)]
        write: Write,
    },
    /// Add a number to a counter; prints the sum.
    ///
    /// A counter is a key whose value is an integer; one that is not there is 0. Additions of many clients at once are all
    /// in the sum.
    #[command(after_long_help = ADD_HELP)]
    Add {
        /// The key.
        #[arg(value_hint = ValueHint::Other)]
        key: OsString,
        /// What to add; less than 0 takes away.
        #[arg(value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_hint = ValueHint::Other, value_parser = clap::value_parser!(i64).range(-i64::MAX..))]
        amount: i64,
        /// Conditions.
        #[command(flatten)]
        condition: SetCondition,
        /// How the write is named.
        #[command(flatten)]
        write: Write,
    },
    /// Print the value of a key, byte for byte.
    ///
    /// A newline follows only when standard output is a terminal. The value is the newest one that was acknowledged,
    /// unless --stale or --revision says otherwise.
    #[command(after_long_help = GET_HELP)]
    Get {
        /// The key.
        #[arg(value_hint = ValueHint::Other)]
        key: OsString,
        /// When it is read.
        #[command(flatten)]
        read: Read,
    },
    /// Remove a key, or every key of a range at once; prints OK, or how many keys went.
    ///
    /// Removing a key that is not there changes nothing and has the exit code 1. A range without keys is no failure.
    #[command(after_long_help = DELETE_HELP, override_usage = DELETE_USAGE)]
    Delete {
        /// The key.
        #[arg(value_hint = ValueHint::Other, required_unless_present_any = ["prefix", "start", "end", "all"])]
        key: Option<OsString>,
        /// Which keys, when it is a range.
        #[command(flatten)]
        range: Range,
        /// Only if the key's modification revision is N.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, conflicts_with_all = ["prefix", "start", "end", "all", "if_version"])]
        if_revision: Option<u64>,
        /// Only if the key's version is N.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, conflicts_with_all = ["prefix", "start", "end", "all"])]
        if_version: Option<u64>,
        /// Print what was removed, instead of OK: the value of the key, or the keys of the range with their values.
        #[arg(long)]
        prev: bool,
        /// How the write is named.
        #[command(flatten)]
        write: Write,
    },
    /// Print keys with their values, one per line, a tab between them.
    ///
    /// In the order of the keys' bytes. All lines show the store at one and the same revision, however many there are.
    #[command(after_long_help = LIST_HELP, visible_alias = "ls")]
    List {
        /// Which keys.
        #[command(flatten)]
        prefix: Prefix,
        /// Print the keys alone, without tab and value.
        #[arg(long)]
        keys_only: bool,
        /// Print at most N keys.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// The first key first, or the last.
        #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::Asc)]
        order: Order,
        /// By what; every order but that of the keys shows at most 10,000 keys.
        #[arg(long, value_enum, value_name = "FIELD", default_value_t = Sort::Key)]
        sort: Sort,
        /// Print what keys share up to the next separator after the prefix once.
        #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other, conflicts_with = "sort")]
        separator: Option<OsString>,
        /// Which revisions.
        #[command(flatten)]
        filters: RevisionFilters,
        /// When it is read.
        #[command(flatten)]
        read: Read,
    },
    /// Print the versions of a key, the newest first.
    ///
    /// A line for each: the revision, then put or delete; for a put also the version and the value, a tab between them.
    /// As far back as the store keeps history; nothing for a key of which there is no trace.
    #[command(after_long_help = HISTORY_HELP)]
    History {
        /// The key.
        #[arg(value_hint = ValueHint::Other)]
        key: OsString,
        /// Print at most N versions.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Take what the asked node has at once, which may be old.
        #[arg(long)]
        stale: bool,
    },
    /// Forget the history before a revision; prints the oldest revision that can be read then.
    ///
    /// The newest revision and the one before it always stay.
    #[command(after_long_help = COMPACT_HELP)]
    Compact {
        /// The oldest revision that is to be readable.
        #[arg(value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        revision: u64,
    },
    /// Print changes as they come, or run a command for each revision.
    ///
    /// A line for each change: the revision, put or delete, the key, the value, tabs between them. When a node fails it
    /// goes on at another one, without a gap and without a change told twice.
    #[command(after_long_help = WATCH_HELP)]
    Watch {
        /// The keys that begin so; by default every key.
        #[arg(value_hint = ValueHint::Other, conflicts_with_all = ["key", "start", "end"])]
        prefix: Option<OsString>,
        /// This key alone.
        #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, conflicts_with_all = ["start", "end"])]
        key: Option<OsString>,
        /// The keys from this one on.
        #[arg(long, value_name = "KEY", value_hint = ValueHint::Other)]
        start: Option<OsString>,
        /// The keys before this one.
        #[arg(long, value_name = "KEY", value_hint = ValueHint::Other)]
        end: Option<OsString>,
        /// Begin with the changes of this revision; by default with what changes from now on.
        #[arg(long, value_name = "REVISION", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
        /// Only changes of this kind.
        #[arg(long, value_name = "KIND", value_enum)]
        filter: Option<Kind>,
        /// With -o json and for a command: show the record before each change, too.
        #[arg(long)]
        prev: bool,
        /// Go on when the command fails.
        #[arg(long, requires = "command")]
        keep_going: bool,
        /// Run this once for each revision, one at a time, with the changes as JSON on its standard input and
        /// DKV_REVISION in its environment.
        #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// Keys that go by themselves: begin, renew, end and show leases.
    #[command(after_long_help = LEASE_HELP)]
    Lease {
        /// What to do.
        #[command(subcommand)]
        command: Lease,
    },
    /// Compare, read and write several keys as one step.
    ///
    /// All of it at one revision, or nothing. Without an option that names a condition or a step the transaction comes
    /// as JSON from standard input, in the form of `POST /v1/txn`. When a condition does not hold, what the --else
    /// options name is done, and the exit code is 1.
    #[command(after_long_help = TXN_HELP, override_usage = TXN_USAGE)]
    Txn {
        /// Conditions and steps.
        #[command(flatten)]
        steps: Steps,
        /// How the write is named.
        #[command(flatten)]
        write: Write,
    },
    /// Show each node: role, term, commit, applied, lag, reachable.
    #[command(after_long_help = STATUS_HELP)]
    Status,
    /// Show and change the members of the cluster, one at a time.
    #[command(after_long_help = MEMBER_HELP, arg_required_else_help = true)]
    Member {
        /// What to do.
        #[command(subcommand)]
        command: Member,
    },
    /// Hand the leadership over to another node; prints who leads then.
    #[command(after_long_help = TRANSFER_HELP)]
    Transfer {
        /// Who is to lead; by default the node whose log has come furthest.
        #[arg(value_name = "NODE")]
        to: Option<String>,
    },
    /// Back the store up, and look at backups.
    #[command(subcommand, after_long_help = SNAPSHOT_HELP)]
    Snapshot(Snapshot),
    /// Print keys with their values as JSON, one record a line.
    ///
    /// All of them at one and the same revision.
    #[command(after_long_help = EXPORT_HELP)]
    Export {
        /// Which keys.
        #[command(flatten)]
        prefix: Prefix,
        /// Write to this file instead of standard output: whole or not at all. `-` is standard output.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Replace the file if it exists.
        #[arg(long, requires = "file")]
        force: bool,
        /// Read the store as it was at revision N; 1 is the empty store.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        revision: Option<u64>,
    },
    /// Store the keys of an export.
    #[command(after_long_help = IMPORT_HELP)]
    Import {
        /// The file; `-`, or nothing, takes standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Only keys that begin with this.
        #[arg(long, value_name = "PREFIX", value_hint = ValueHint::Other)]
        prefix: Option<OsString>,
        /// Leave keys that exist as they are.
        #[arg(long)]
        if_absent: bool,
    },
    /// Check a live cluster: do concurrent clients see one store?
    ///
    /// Writes to keys of its own and removes them. Every read must show the newest write that was acknowledged, and all
    /// answers together must fit one order.
    #[command(after_long_help = VERIFY_HELP)]
    Verify {
        /// For how long.
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        seconds: u64,
        /// How many clients at once.
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
        clients: u64,
        /// On how many keys at a time.
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=500))]
        keys: u64,
        /// Where the history goes; by default a new file here, dkv-history-*.jsonl; `-` is standard output.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        history: Option<PathBuf>,
        /// Replace the file if it exists.
        #[arg(long, requires = "history")]
        force: bool,
    },
    /// Print the script by which a shell completes dkv-cli commands.
    #[command(after_long_help = COMPLETION_HELP)]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Every text that is printed as it is written: examples, tables and usage lines.
    fn written(command: &clap::Command) -> Vec<(String, String)> {
        let name = command.get_name().to_owned();
        let help = command.get_after_long_help().map(|text| text.ansi().to_string()).unwrap_or_default();
        let usage = command.clone().render_usage().to_string();
        let mut texts = vec![(name.clone(), help), (name, usage)];
        command.get_subcommands().for_each(|below| texts.extend(written(below)));
        texts
    }

    /// Longer lines are broken by clap wherever they reach the 80th column, and tables with them.
    #[test]
    fn no_line_of_the_help_is_broken_at_80_columns() {
        let mut cli = Cli::command();
        cli.build();
        for (name, text) in written(&cli) {
            for line in text.replace("\x1b[1m", "").replace("\x1b[4m", "").replace("\x1b[0m", "").lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }
}
