//! Pages: sizes within bounds, tokens that say where to go on.

use crate::status::Failure;

/// Rows of a page at most.
pub const MAX_PAGE: u32 = 1000;

/// The size asked for, or the default.
///
/// # Errors
/// When it is more than `most`.
pub fn size(asked: u32, default: u32, most: u32) -> Result<u32, Failure> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        _ => Err(Failure::invalid(
            "page_size",
            format!("is {asked}; it must be 1 to {most}, or 0 for {default}"),
        )),
    }
}

/// Where to go on; `None` at the first page.
///
/// # Errors
/// When it is none of ours.
pub fn token<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong =
        |_| Failure::invalid("page_token", "must be the next_page_token of the page before, unchanged");
    text.parse().map(Some).map_err(wrong)
}

/// The token of the next page, if this one is full.
#[must_use]
pub fn next<T>(rows: &[T], size: u32, token: impl FnOnce(&T) -> String) -> String {
    let is_full = u32::try_from(rows.len()).is_ok_and(|rows| rows == size);
    rows.last().filter(|_| is_full).map(token).unwrap_or_default()
}
