//! What several commands take, and the words that options choose from.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use dkv::api::is_cluster_id;
use dkv::client::{self, Condition};

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people and simple scripts.
    Plain,
    /// The JSON of the API; errors too, on standard error.
    Json,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By ascending key.
    Asc,
    /// By descending key.
    Desc,
}

/// By what a list is sorted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Sort {
    /// By the keys' bytes.
    Key,
    /// By the revision that created the key.
    CreateRevision,
    /// By the revision of the last write.
    ModRevision,
    /// By how often the key was written.
    Version,
    /// By the values' bytes.
    Value,
}

impl From<Sort> for client::Sort {
    fn from(sort: Sort) -> client::Sort {
        match sort {
            Sort::Key => client::Sort::Key,
            Sort::CreateRevision => client::Sort::CreateRevision,
            Sort::ModRevision => client::Sort::ModRevision,
            Sort::Version => client::Sort::Version,
            Sort::Value => client::Sort::Value,
        }
    }
}

/// Which revisions the keys of a list may have.
#[derive(Args)]
pub struct RevisionFilters {
    /// Only keys last written at revision N or later.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub min_mod_revision: Option<u64>,
    /// Only keys last written at revision N or before.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub max_mod_revision: Option<u64>,
    /// Only keys created at revision N or later.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub min_create_revision: Option<u64>,
    /// Only keys created at revision N or before.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub max_create_revision: Option<u64>,
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

/// Which keys a list or an export means. Every command takes `--prefix`; these two also take the prefix alone, because
/// nothing else can stand there.
#[derive(Args)]
pub struct Prefix {
    /// Only keys that begin with this.
    #[arg(id = "prefix", long = "prefix", value_name = "PREFIX", value_hint = ValueHint::Other)]
    pub option: Option<OsString>,
    /// The same without its name.
    #[arg(value_hint = ValueHint::Other, hide = true, conflicts_with = "prefix")]
    pub bare: Option<OsString>,
}

/// How a read is made.
#[derive(Args)]
pub struct Read {
    /// Take what the asked node has at once, which may be old.
    #[arg(long)]
    pub stale: bool,
    /// Read the store as it was at revision N; 1 is the empty store.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
}

/// What must hold for a value to be stored.
#[derive(Args)]
pub struct SetCondition {
    /// Only if the key's modification revision is N.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, conflicts_with_all = ["if_absent", "if_version"])]
    pub if_revision: Option<u64>,
    /// Only if the key's version is N; 0: only if there is no such key.
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, conflicts_with = "if_absent")]
    pub if_version: Option<u64>,
    /// Only if there is no such key.
    #[arg(long)]
    pub if_absent: bool,
}

impl SetCondition {
    /// The condition; clap lets one of the options through.
    pub fn condition(&self) -> Option<Condition> {
        let absent = self.if_absent.then_some(Condition::Absent);
        condition_of(self.if_revision, self.if_version).or(absent)
    }
}

/// The condition that one of these numbers names.
pub fn condition_of(if_revision: Option<u64>, if_version: Option<u64>) -> Option<Condition> {
    if_revision.map(Condition::ModRevision).or(if_version.map(Condition::Version))
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

/// A cluster id on the command line, in capitals too.
pub(super) fn cluster_id(text: &str) -> Result<String, String> {
    let id = text.to_ascii_lowercase();
    match is_cluster_id(&id) {
        true => Ok(id),
        false => Err("write the 16 hexadecimal digits of a cluster id".to_owned()),
    }
}

/// Seconds on the command line: more than 0, at most an hour, fractions allowed.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err("write 0.001 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
