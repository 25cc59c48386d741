//! The sessions a driver has open.
//!
//! A reset replaces the table; whoever still executes a request keeps the table it started with,
//! so what it opens late is dropped together with that. IDs are never given twice, so an ID from
//! before a reset is unknown after it rather than somebody else's.

use crate::engine::Session;
use card_spec::crypto::Status;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Open sessions by ID.
pub(crate) struct SessionTable {
    sessions: RwLock<BTreeMap<u64, Entry>>,
    len_max: usize,
    next_id: Arc<AtomicU64>,
}

struct Entry {
    service: u32,
    session: Arc<dyn Session>,
}

impl SessionTable {
    pub(crate) fn new(len_max: usize) -> Self {
        Self {
            sessions: RwLock::default(),
            len_max,
            next_id: Arc::new(AtomicU64::new(1)),
        }
    }

    /// An empty table that goes on counting where this one stands.
    pub(crate) fn successor(&self) -> Self {
        Self {
            sessions: RwLock::default(),
            len_max: self.len_max,
            next_id: Arc::clone(&self.next_id),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.read(|sessions| sessions.len() >= self.len_max)
    }

    pub(crate) fn insert(&self, service: u32, session: Arc<dyn Session>) -> Result<u64, Status> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut sessions = self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= self.len_max {
            return Err(Status::NOSPC);
        }
        session.opened(id);
        sessions.insert(id, Entry { service, session });
        Ok(id)
    }

    /// Finds a session of `service`; one of another service is as unknown as none.
    pub(crate) fn find(&self, service: u32, id: u64) -> Result<Arc<dyn Session>, Status> {
        self.read(|sessions| match sessions.get(&id) {
            Some(entry) if entry.service == service => Ok(Arc::clone(&entry.session)),
            _ => Err(Status::INVSESS),
        })
    }

    pub(crate) fn remove(&self, service: u32, id: u64) -> Result<(), Status> {
        let mut sessions = self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match sessions.get(&id) {
            Some(entry) if entry.service == service => {
                sessions.remove(&id);
                Ok(())
            }
            _ => Err(Status::INVSESS),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<u64, Entry>) -> T) -> T {
        look(&self.sessions.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTable")
            .field("len", &self.read(BTreeMap::len))
            .field("len_max", &self.len_max)
            .finish_non_exhaustive()
    }
}
