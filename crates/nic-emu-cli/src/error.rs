//! What can go wrong for an operator.

use thiserror::Error;

/// The command line asks for something that cannot be meant. One sentence; exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// Exit code of the process.
    pub const EXIT_CODE: u8 = 2;
}
