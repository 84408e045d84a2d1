//! Why a server ends, in words for an operator.

use crate::node::bootstrap::BootstrapError;
use crate::node::data_dir::DataDirError;
use crate::store::identity::IdentityError;

/// Why a server does not start, or ends: one line for the operator, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ServerError {
    /// 0 told to stop before it started, 1 run-time failure, 2 configuration, 3 data corrupt, 4 identity refused,
    /// 5 another program is needed.
    pub exit_code: u8,
    /// What happened, where, and what to do.
    pub text: String,
}

impl ServerError {
    pub(super) fn new(exit_code: u8, text: impl Into<String>) -> ServerError {
        ServerError { exit_code, text: text.into() }
    }
}

impl From<IdentityError> for ServerError {
    fn from(e: IdentityError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}

impl From<DataDirError> for ServerError {
    fn from(e: DataDirError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}

impl From<BootstrapError> for ServerError {
    fn from(e: BootstrapError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}
