//! Lets many threads append at once: whoever waits goes into the same commit.
//!
//! A commit costs what the disk takes to sync, whatever is in it, so a burst of events costs a few
//! syncs and not one each.
//!
//! ```text
//!   append --+
//!   append --+--> queue --> all that wait --> one commit --> each gets its number
//!   append --+
//! ```

use super::error::HistoryError;
use super::event::{Event, Seq};
use super::events::Events;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Requests that wait at most; more make their callers wait.
const QUEUE_MAX: usize = 1_024;
/// Events in one commit at most, so that the first to ask does not wait for ever more.
const COMMIT_EVENTS_MAX: usize = 1_000;

type Answer = Result<Seq, HistoryError>;

struct Request {
    events: Vec<Event>,
    answer: SyncSender<Answer>,
}

/// A thread that appends for others. Clones append to the same history.
#[derive(Clone, Debug)]
pub struct Writer {
    requests: SyncSender<Request>,
    thread: Arc<Mutex<Option<JoinHandle<Events>>>>,
}

impl Writer {
    /// Starts the thread, which has `events` from now on.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn start(events: Events) -> io::Result<Self> {
        let (requests, queue) = mpsc::sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || serve(events, &queue))?;
        Ok(Self {
            requests,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// As [`Events::append`]: returns when the events are on the disk.
    ///
    /// # Errors
    ///
    /// If they could not be recorded.
    pub fn append(&self, events: Vec<Event>) -> Result<Seq, HistoryError> {
        events.iter().try_for_each(Event::check)?;
        let (answer, answered) = mpsc::sync_channel(1);
        self.requests
            .send(Request { events, answer })
            .map_err(|_| HistoryError::WriterGone)?;
        answered.recv().map_err(|_| HistoryError::WriterGone)?
    }

    /// Ends the thread once it has done what it was asked, and gives the events back; `None` if
    /// other clones are still there, or it panicked.
    #[must_use]
    pub fn stop(self) -> Option<Events> {
        let Self { requests, thread } = self;
        drop(requests);
        let thread = Arc::into_inner(thread)?;
        let handle = thread.into_inner().unwrap_or_else(PoisonError::into_inner);
        handle?.join().ok()
    }
}

fn serve(mut events: Events, queue: &Receiver<Request>) -> Events {
    while let Ok(first) = queue.recv() {
        let mut requests = vec![first];
        let mut count = requests[0].events.len();
        while count < COMMIT_EVENTS_MAX {
            let Ok(request) = queue.try_recv() else { break };
            count += request.events.len();
            requests.push(request);
        }
        commit(&mut events, requests);
    }
    events
}

fn commit(events: &mut Events, mut requests: Vec<Request>) {
    if let [_] = requests[..] {
        return requests.into_iter().for_each(|alone| alone.serve(events));
    }
    let mut all = Vec::new();
    for request in &requests {
        all.extend_from_slice(&request.events);
    }
    let Ok(last) = events.append(&all) else {
        // One of them may be at fault, which is no reason to refuse the others.
        return requests.into_iter().for_each(|each| each.serve(events));
    };
    // The last of the commit has the last number; the others count back from it.
    let mut last = last.0;
    while let Some(request) = requests.pop() {
        request.answer(Ok(Seq(last)));
        last -= request.events.len() as u64;
    }
}

impl Request {
    fn serve(self, events: &mut Events) {
        self.answer(events.append(&self.events));
    }

    fn answer(&self, answer: Answer) {
        // Whoever does not wait any more does not want to know.
        let _ = self.answer.send(answer);
    }
}
