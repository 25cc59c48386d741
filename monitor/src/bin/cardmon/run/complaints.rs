//! What is said on standard error while the monitor runs, which may be a terminal that was halted, or a
//! connection that hangs, and must not stop the watch: it goes the way of what is shown.

use super::output::Output;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

static QUEUE: Mutex<Option<Output>> = Mutex::new(None);

/// From here on nobody waits for standard error. If that cannot be had, it is written to as before.
pub(super) fn start() {
    // Not through the standard library's handle: whoever else used that would wait for its lock.
    let own = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let output = own.and_then(Output::of_complaints);
    *QUEUE.lock().unwrap_or_else(PoisonError::into_inner) = output.ok();
}

/// Has a line written if it goes this way; else it is given back.
pub(crate) fn put(line: String) -> Result<(), String> {
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(output) = &mut *queue else {
        return Err(line);
    };
    // Who is not heard is counted, and of who has gone nothing more can be said.
    let _ = output.put(line);
    Ok(())
}

/// Waits until all is said, or for so long.
pub(crate) fn end(patience: Duration) {
    let output = QUEUE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(output) = output {
        output.end(patience);
    }
}
