//! The numbers of protocol versions, and which of them a program reads and writes.

/// A version of formats and operations. 0 = none is known yet.
pub type Protocol = u16;

/// The first version. A state without a version entry has it.
pub const FIRST_PROTOCOL: Protocol = 1;

/// The version that this program speaks. The feature `next-protocol` builds the program with the next version, for
/// the tests of upgrades.
pub const PROTOCOL: Protocol = if cfg!(feature = "next-protocol") { 2 } else { 1 };

/// The oldest version that a program which speaks `protocol` reads and writes: the version before its own.
pub fn oldest_readable(protocol: Protocol) -> Protocol {
    protocol.saturating_sub(1).max(FIRST_PROTOCOL)
}

/// A program cannot read data of some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct VersionMismatch {
    /// The version of the data.
    pub version: Protocol,
    /// The version that the program speaks.
    pub speaks: Protocol,
}

impl VersionMismatch {
    fn text(&self) -> String {
        let VersionMismatch { version, speaks } = *self;
        match version > speaks {
            true => format!(
                "it is at version {version}, and this dkv-server speaks protocol {speaks}: run a dkv-server that speaks \
                 protocol {version}, or restore a backup from before the version was raised"
            ),
            false => format!(
                "it is at version {version}, and this dkv-server speaks protocol {speaks} and reads {} at least: run a \
                 dkv-server that speaks protocol {} first, until the version is raised",
                oldest_readable(speaks),
                version + 1
            ),
        }
    }
}

/// Whether a program that speaks `speaks` reads and writes `version`.
///
/// # Errors
/// Too new or too old; the text says which program is needed.
pub fn check_version(version: Protocol, speaks: Protocol) -> Result<(), VersionMismatch> {
    match (oldest_readable(speaks)..=speaks).contains(&version.max(FIRST_PROTOCOL)) {
        true => Ok(()),
        false => Err(VersionMismatch { version, speaks }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_version_reads_its_own_and_the_one_before() {
        let reads = |speaks| (0..6).filter(|v| check_version(*v, speaks).is_ok()).collect::<Vec<_>>();
        assert_eq!(reads(1), [0, 1], "0 is a state without a version entry");
        assert_eq!(reads(2), [0, 1, 2]);
        assert_eq!(reads(4), [3, 4]);
        let text = |version, speaks| check_version(version, speaks).unwrap_err().to_string();
        assert!(text(3, 2).contains("run a dkv-server that speaks protocol 3"), "{}", text(3, 2));
        assert!(text(1, 3).contains("speaks protocol 2 first"), "{}", text(1, 3));
    }
}
