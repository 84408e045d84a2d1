//! The version in force as part of the state, and the handling of an entry that this program cannot read.

use super::Kv;
use crate::raft::{Entry, EntryKind, Position, Protocol, VersionMismatch, check_version};
use crate::store::command::{Command, CommandError, needed_protocol};

/// A committed entry that a newer program wrote: this program cannot follow the cluster any further. The state is
/// unchanged by the entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {position} cannot be applied: {why}")]
pub struct Unreadable {
    /// The position of the entry.
    pub position: Position,
    /// What is too new about it, and which program is needed.
    pub why: String,
}

impl Kv {
    /// The version in force: everything that is written from this state uses it.
    pub fn version(&self) -> Protocol {
        self.version
    }

    /// Sets the protocol version of the program. Only tests change it from the version of this build.
    pub fn set_program(&mut self, speaks: Protocol) {
        self.speaks = speaks;
    }

    /// Whether the program reads and writes the version in force.
    ///
    /// # Errors
    /// The text says which program does.
    pub fn check_program(&self) -> Result<(), VersionMismatch> {
        check_version(self.version, self.speaks)
    }

    /// The command of a command entry; `None` for any other entry that can be applied.
    ///
    /// Panics when the bytes are not a command of any version: continuing would make this member's state differ from
    /// the state of the others.
    pub(super) fn readable(&self, entry: &Entry) -> Result<Option<Command>, Unreadable> {
        let unreadable = |why: String| Unreadable { position: entry.position(), why };
        if let Some(version) = entry.version() {
            check_version(version, self.speaks).map_err(|e| unreadable(e.to_string()))?;
        }
        if entry.kind() != EntryKind::Command {
            return Ok(None);
        }
        let (needed, speaks) = (needed_protocol(entry.payload()), self.speaks);
        match Command::decode(entry.payload()) {
            Ok(command) if needed <= speaks => Ok(Some(command)),
            Ok(_) => Err(unreadable(VersionMismatch { version: needed, speaks }.to_string())),
            Err(e) if e.is_newer() => Err(unreadable(newer_command(&e, speaks))),
            Err(e) => panic!("the committed entry {} is no command: {e}", entry.position()),
        }
    }
}

fn newer_command(error: &CommandError, speaks: Protocol) -> String {
    format!("{error}; this dkv-server speaks protocol {speaks}: run the one that wrote it, or a later one")
}
