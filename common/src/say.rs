//! Words for the person who started a program. That they are not read any more is no reason to end by a
//! panic, as `eprintln!` would.

use std::fmt::Display;
use std::io::{self, Write as _};

/// A line to standard error; what cannot be written there is lost.
pub fn aside(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A result to standard output. Its reader may have seen enough: `… | head -1` is no failure.
///
/// # Errors
/// When it cannot be written for another reason, such as a full disk.
pub fn result(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("the result cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}
