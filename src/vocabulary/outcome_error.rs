//! What can be wrong with the bytes of an outcome.

/// Why bytes are not an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// A tag that names nothing.
    #[error("unknown outcome {0}")]
    Unknown(u8),
    /// Fewer or more bytes than its fields take.
    #[error("an outcome with tag {tag} has {bytes} bytes")]
    Length {
        /// The tag.
        tag: u8,
        /// How many bytes there are.
        bytes: usize,
    },
    /// No byte at all.
    #[error("an outcome without a byte")]
    Empty,
}
