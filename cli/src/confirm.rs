//! Asks people whether they mean it. Programs are never asked.

use std::io::{IsTerminal as _, Write as _};

use crate::failure::Failure;
use crate::output;

/// Whether somebody sits there who can be asked.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for something to be typed that one only knows who has read what is asked.
///
/// # Errors
/// When something else is typed, or nothing.
pub(crate) fn by_typing(what: &str, expected: &str) -> Result<(), Failure> {
    let local = |error: std::io::Error| Failure::local(format!("the terminal: {error}"));
    let mut screen = std::io::stderr();
    write!(screen, "{} Type {expected} to go on: ", output::plain(what)).map_err(local)?;
    screen.flush().map_err(local)?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).map_err(local)?;
    if typed.trim() == expected {
        return Ok(());
    }
    Err(Failure::usage("it was not confirmed, so nothing was done; without being asked: --yes"))
}
