//! The command line: what can be written, and the help that says so. The man pages are made from it too.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

/// A heading of the help's own kind. Clap takes the escape codes out again where there is no colour.
macro_rules! heading {
    ($text:literal) => {
        concat!("\x1b[1m\x1b[4m", $text, "\x1b[0m\n")
    };
}

const MAIN_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli set greeting hello           store a value
  dkv-cli get greeting                 print it
  dkv-cli list                         print every key with its value
  dkv-cli delete greeting              remove it
  dkv-cli status                       see how the nodes are
  dkv-cli member list                  and who they are
  dkv-cli snapshot save dkv.backup     back everything up
  dkv-cli verify                       see whether they keep their word
  dkv-cli --endpoints 10.0.0.7:8081 status
  export DKV_ENDPOINTS=10.0.0.7:8081,10.0.0.8:8081

",
    heading!("Exit codes:"),
    "  0  done
  1  there is no such key, or the condition does not hold; nothing changed
  2  bad usage or refused input; nothing changed
  3  unavailable; surely not done
  4  outcome unknown; repeat the command with the --idempotency-key it names
  5  snapshot: the file is damaged, or no backup; verify: what the clients saw was
     not linearizable
  6  verify: undecided, the check was given up

",
    heading!("Environment:"),
    "  DKV_ENDPOINTS  the nodes to ask, unless --endpoints is given
  NO_COLOR       when not empty, nothing is coloured"
);

const SET_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli set greeting hello
  dkv-cli set photo < photo.jpg        any bytes, from standard input
  dkv-cli set note ''                  an empty value is a value
  dkv-cli set -- -k -v                 a key and a value that begin with -
  dkv-cli set lock me --if-absent      only one of many will get it
  dkv-cli set count 8 --if-revision 41
                                       only if nobody wrote it since

  Revisions are what `dkv-cli get -o json` calls mod_revision."
);

const GET_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli get greeting
  dkv-cli get photo > photo.jpg        byte for byte
  dkv-cli get greeting -o json         with its revisions
  dkv-cli get greeting --revision 41   what it was then
  dkv-cli get greeting --stale         also without a leader, perhaps old"
);

const DELETE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli delete greeting
  dkv-cli delete lock --if-revision 41   only if nobody wrote it since"
);

const LIST_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli list                         every key
  dkv-cli list app/                    those that begin with app/
  dkv-cli list --keys-only | wc -l     how many there are
  dkv-cli list logs/ --order desc --limit 1
                                       the last one
  dkv-cli list --revision 41           what there was then
  dkv-cli list -o json | jq -r '.kvs[].key'

  A tab, a newline, any other unprintable byte is printed as \\x09, \\x0a, \\xNN,
  and a backslash as \\\\, so that a line is always one key. `-o json` prints one
  document; `cursor` in it says that --limit has left keys out."
);

const STATUS_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli status
  dkv-cli status -o json | jq -r '.cluster.leader.node_id'
  watch -n 1 dkv-cli status

",
    heading!("Columns:"),
    "  ROLE       leader, follower, candidate, pre_candidate; unborn before the
             cluster's first start is complete
  TERM       the node's term: it grows with every election
  COMMIT     the last log entry that the node knows to be on a majority
  APPLIED    the last log entry in its map
  LAG        how many entries its map is behind the greatest COMMIT shown
  REACHABLE  whether it answered within 2 seconds"
);

const MEMBER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member list
  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
  dkv-cli member remove n2
  dkv-cli member replace n3 n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
                                       n3's machine is lost, n6 takes its place
  dkv-cli member replace n3 n3         n3's data is lost, its machine is not

  One member at a time is added, promoted or removed. A change that would leave
  fewer voters answering than a majority is refused. `dkv-cli help member add`
  and so on say more."
);

const MEMBER_ADD_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081 \\
      --learner                        a read replica
  dkv-cli member add ... --timeout 600 gives you time to start it

  Not needed for a node that is started with `dkv-server --join`: that adds
  itself."
);

const MEMBER_REPLACE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member replace n3 n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
                                       adds n6, waits until it votes, removes n3
  dkv-cli member replace n3 n3 --timeout 600
                                       removes n3; once it is started again with an
                                       empty data_dir, adds it and waits until it
                                       votes

  Interrupted, it goes on where it was when it is run again."
);

const TRANSFER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli transfer                     to whoever is furthest
  dkv-cli transfer n2

  Nothing fails meanwhile: requests wait for the new leader. A node that is
  stopped with SIGTERM does this by itself."
);

const SNAPSHOT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot save dkv.backup
  dkv-cli snapshot status dkv.backup
  dkv-server --config node1.yaml --restore dkv.backup"
);

const SAVE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot save dkv.backup
  dkv-cli snapshot save /backups/dkv-$(date +%F).backup
  dkv-cli --endpoints 10.0.0.7:8081 snapshot save dkv.backup
                                       through this node first

  The backup holds everything that was acknowledged before the command: keys,
  their history as far as it is kept, idempotency keys. It is written to
  FILE.part, verified whole, synced, and renamed. --timeout is for how long
  nothing comes, so that a large store needs no larger one."
);

const SNAPSHOT_STATUS_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot status dkv.backup
  dkv-cli snapshot status dkv.backup -o json | jq .revision

  Reads the whole file and loads it as a restore would: every checksum, the
  order of the rows, their number, the hash of the state. It takes about the
  memory of a node. The exit code is 5 when the file is damaged, and the text
  names the place."
);

const EXPORT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli export                       every key, one JSON record a line
  dkv-cli export app/ > app.jsonl
  dkv-cli export app/ --file app.jsonl
                                       whole or not at all
  dkv-cli export --revision 41
  dkv-cli export | jq -r .key

  All lines show the store at one revision. Keys and values that are no text
  are in key_base64 and value_base64. --timeout is for each page of keys."
);

const IMPORT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli import app.jsonl
  dkv-cli import app.jsonl --prefix app/users/
                                       only keys that begin so
  dkv-cli import app.jsonl --if-absent
                                       keys that exist stay as they are
  dkv-cli export | dkv-cli --endpoints 10.0.0.7:8081 import -

  Lines are those of `dkv-cli export`; key and value are enough. Every line of a
  file is checked before the first key is stored. Standard input is checked line
  by line while it is stored. --timeout is for each key. Lines with one and the
  same key are stored in their order, others side by side."
);

const VERIFY_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli verify                       half a minute
  dkv-cli verify --seconds 600 --clients 32 --history run.jsonl
                                       while nodes are killed and cut off
  dkv-cli verify -o json | jq -r .verdict

",
    heading!("What it does:"),
    "  Clients put, get, delete, compare and set, and list keys of their own below a
  prefix that is used once, each through one node. Every answer is recorded with
  the time of its call and its return, as one JSON object a line, and the record
  is checked twice: against the order of the log that the answers name, and, with
  no trust in that, by searching an order for each key. At the end the keys are
  removed; those of an interrupted run stay below dkv-verify/.

",
    heading!("Exit codes:"),
    "  0  linearizable
  3  nothing was done: no node could serve
  5  not linearizable: report it, with the history
  6  undecided: the check was given up; try fewer clients or more keys"
);

const COMPLETION_HELP: &str = concat!(
    heading!("Examples:"),
    "  source <(dkv-cli completion bash)    for this shell
  dkv-cli completion bash > ~/.local/share/bash-completion/completions/dkv-cli
  dkv-cli completion zsh > \"${fpath[1]}/_dkv-cli\"
  dkv-cli completion fish > ~/.config/fish/completions/dkv-cli.fish"
);

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

    /// For the whole command with all its attempts.
    ///
    /// At most 3600; fractions are allowed.
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

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people and simple scripts.
    Plain,
    /// The JSON of the API; errors too, on standard error.
    Json,
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
        /// The value; `-`, or nothing, takes it from standard input, byte for byte.
        #[arg(allow_negative_numbers = true, value_hint = ValueHint::Other)]
        value: Option<OsString>,
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
    /// Remove a key; prints OK, or says that it was not there.
    ///
    /// Removing a key that is not there changes nothing and has the exit code 1.
    #[command(after_long_help = DELETE_HELP)]
    Delete {
        /// The key.
        #[arg(value_hint = ValueHint::Other)]
        key: OsString,
        /// Only if the key's modification revision is N.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
        if_revision: Option<u64>,
        /// How the write is named.
        #[command(flatten)]
        write: Write,
    },
    /// Print keys with their values, one per line, a tab between them.
    ///
    /// In the order of the keys' bytes. All lines show the store at one and the same revision, however many there are.
    #[command(after_long_help = LIST_HELP)]
    List {
        /// Only keys that begin with this.
        #[arg(value_hint = ValueHint::Other)]
        prefix: Option<OsString>,
        /// Print the keys alone, without tab and value.
        #[arg(long)]
        keys_only: bool,
        /// Print at most N keys.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// The first key first, or the last.
        #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::Asc)]
        order: Order,
        /// When it is read.
        #[command(flatten)]
        read: Read,
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
        /// Only keys that begin with this.
        #[arg(value_hint = ValueHint::Other)]
        prefix: Option<OsString>,
        /// Write to this file instead of standard output: whole or not at all.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Replace the file if it exists.
        #[arg(long, requires = "file")]
        force: bool,
        /// Read the store as it was at revision N.
        #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
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
        /// Where the history goes; by default a new file here, dkv-history-*.jsonl.
        #[arg(long, value_name = "FILE")]
        history: Option<PathBuf>,
    },
    /// Print the script by which a shell completes dkv-cli commands.
    #[command(after_long_help = COMPLETION_HELP)]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// What can be done with members.
#[derive(Subcommand)]
pub enum Member {
    /// Show each member: its name, whether it votes, its identity and addresses.
    List,
    /// Add a node that was started to join; waits until it is there.
    ///
    /// It is a learner at first: the leader brings it up to date, and it becomes a voter by itself once it has caught up.
    #[command(after_long_help = MEMBER_ADD_HELP)]
    Add {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
        /// Where the members reach it.
        #[arg(long, value_name = "HOST:PORT")]
        raft_addr: String,
        /// Where clients reach it.
        #[arg(long, value_name = "HOST:PORT")]
        http_addr: String,
        /// Let it stay a learner: a read replica that counts for no majority.
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member; its process ends by itself, and its data is of no more use.
    Remove {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
    },
    /// Make a learner a voter.
    Promote {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
    },
    /// Put a new node in the place of one that is lost.
    ///
    /// With two names NEW is added, and OLD removed once NEW votes. With one and the same name, for a node that has lost
    /// its data, it is removed first, and added again with the identity that it has then.
    #[command(after_long_help = MEMBER_REPLACE_HELP)]
    Replace {
        /// The member that is lost.
        old: String,
        /// The node in its place; the same name for a node with an empty data_dir.
        new: String,
        /// Where the members reach NEW; where they reached OLD, if the names are the same.
        #[arg(long, value_name = "HOST:PORT")]
        raft_addr: Option<String>,
        /// Where clients reach NEW.
        #[arg(long, value_name = "HOST:PORT")]
        http_addr: Option<String>,
    },
}

/// What can be done with backups.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Save a backup of the whole store, while it is used.
    #[command(after_long_help = SAVE_HELP)]
    Save {
        /// The file to write.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Replace it if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Verify a backup and say what is in it. Needs no cluster.
    #[command(after_long_help = SNAPSHOT_STATUS_HELP)]
    Status {
        /// The backup.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By ascending key.
    Asc,
    /// By descending key.
    Desc,
}

/// Shells whose completion can be made.
#[derive(Clone, Copy, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// How a read is made.
#[derive(Args)]
pub struct Read {
    /// Take what the asked node has at once, which may be old.
    #[arg(long)]
    pub stale: bool,
    /// Read the store as it was at revision N.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub revision: Option<u64>,
}

/// What must hold for a value to be stored.
#[derive(Args)]
pub struct SetCondition {
    /// Only if the key's modification revision is N.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, conflicts_with = "if_absent")]
    pub if_revision: Option<u64>,
    /// Only if there is no such key.
    #[arg(long)]
    pub if_absent: bool,
}

/// How a write is made.
#[derive(Args)]
pub struct Write {
    /// The name under which the cluster remembers the outcome.
    ///
    /// 1 to 64 of A-Z a-z 0-9 . _ ~ -. Repeating a write under the same name, soon after it, finds out whether it took effect, and makes it take
    /// effect at most once. Without this option every command gets a name of its own.
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub idempotency_key: Option<String>,
}

/// Seconds on the command line: more than 0, at most an hour, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err("write 0.001 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
