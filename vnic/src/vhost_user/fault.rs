//! What is wrong with a message of the VMM's.

/// Why a message is not carried out, as the log says it; the VMM is told no more than that it was not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It asks for what cannot be.
    #[error("invalid parameters")]
    Parameters,
    /// It is none that the protocol knows.
    #[error("invalid message")]
    Message,
    /// It comes with more or fewer descriptors than belong to it.
    #[error("wrong number of attached fds")]
    Descriptors,
    /// Something else that the reader of the messages found.
    #[error("{0}")]
    Protocol(String),
}
