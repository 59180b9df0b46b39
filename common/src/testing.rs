//! Seams for the stories; compiled only with the feature `testing`, never into a shipped binary.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::time::Timestamp;

/// Names the checkpoint to stop at and the Unix socket to say so on: `NAME=PATH`.
pub const CHECKPOINT_VARIABLE: &str = "WRITTEST_CHECKPOINT";
/// Names a file that holds a signed number of seconds to add to the wall clock.
pub const CLOCK_VARIABLE: &str = "WRITTEST_CLOCK";

/// Stops this thread here if the story asked for it: says the name on the socket, goes on when the story closes it.
pub fn checkpoint(name: &str) {
    let Ok(wanted) = std::env::var(CHECKPOINT_VARIABLE) else {
        return;
    };
    let Some((_, path)) = wanted.split_once('=').filter(|(wanted, _)| *wanted == name) else {
        return;
    };
    // A story that has let go no longer listens; then nothing stops here.
    if let Ok(mut story) = UnixStream::connect(path) {
        let _ = story.write_all(name.as_bytes());
        let _ = story.read(&mut [0; 1]);
    }
}

pub(crate) fn shifted(wall: Timestamp) -> Timestamp {
    let Ok(path) = std::env::var(CLOCK_VARIABLE) else {
        return wall;
    };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    match text.trim().parse::<i64>() {
        Ok(seconds) if seconds < 0 => wall - Duration::from_secs(seconds.unsigned_abs()),
        Ok(seconds) => wall + Duration::from_secs(seconds.unsigned_abs()),
        Err(_) => wall,
    }
}
