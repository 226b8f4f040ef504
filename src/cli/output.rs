//! Standard output.

use std::io::{self, ErrorKind, Write};

use super::Refusal;

/// Writes `text` to standard output; a reader that has seen enough (`vswitch show | head`) is no
/// failure.
pub(super) fn write(text: &str) -> Result<(), Refusal> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Refusal::Failure(format!("standard output cannot be written ({error}); see where it goes"))),
    }
}
