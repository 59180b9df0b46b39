//! Seams for the stories; compiled only with the feature `testing`, never into a shipped binary.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use writ_protocol::time::Timestamp;

/// Names the checkpoint to stop at and the Unix socket to say so on: `NAME=PATH`.
pub const CHECKPOINT_VARIABLE: &str = "WRITTEST_CHECKPOINT";
/// Names a file that holds a signed number of seconds to add to the wall clock.
pub const CLOCK_VARIABLE: &str = "WRITTEST_CLOCK";

/// Stops this thread here if the story asked for it: says the name on the socket, goes on when the story
/// closes it.
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

/// Names a file that holds a number of seconds to add to the monotonic clock.
pub const MONOTONIC_VARIABLE: &str = "WRITTEST_MONOTONIC";

pub(crate) fn shifted(wall: Timestamp) -> Timestamp {
    match offset(CLOCK_VARIABLE) {
        seconds if seconds < 0 => wall - Duration::from_secs(seconds.unsigned_abs()),
        seconds => wall + Duration::from_secs(seconds.unsigned_abs()),
    }
}

pub(crate) fn advanced(monotonic: Duration) -> Duration {
    monotonic + Duration::from_secs(offset(MONOTONIC_VARIABLE).unsigned_abs())
}

fn offset(variable: &str) -> i64 {
    let path = std::env::var(variable).unwrap_or_default();
    std::fs::read_to_string(path).unwrap_or_default().trim().parse().unwrap_or(0)
}
