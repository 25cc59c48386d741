//! Takes steps on a thread that may wait: for configurations without our provider, whose steps
//! cannot be repeated and whose keys may still be slow.

use super::counts::Counts;
use super::engine::{Engine, Stepped, feed};
use crate::provider::tape;
use rustls::ServerConnection;
use std::io;
use tokio::task::spawn_blocking;

/// Takes steps in tokio's pool of blocking threads.
pub(super) struct Pool<'a>(&'a Counts);

impl<'a> Pool<'a> {
    pub(super) const fn new(counts: &'a Counts) -> Self {
        Self(counts)
    }
}

impl Engine for Pool<'_> {
    async fn step(
        &mut self,
        mut connection: Box<ServerConnection>,
        bytes: Vec<u8>,
    ) -> io::Result<Stepped> {
        self.0.pooled();
        let step = move || {
            let outcome = tape::may_wait(|| feed(&mut connection, &bytes));
            Stepped {
                connection,
                unsent: Vec::new(),
                outcome,
            }
        };
        spawn_blocking(step).await.map_err(io::Error::other)
    }

    fn sent(&mut self, _bytes: &[u8]) {}
}
