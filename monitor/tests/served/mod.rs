//! A monitor that says one thing: its status over HTTP, for programs that ask.

use hwshim::clock::{Clock, SystemClock};
use monitor::api::{self, Published, Source};
use monitor::status::Status;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// Answers with one status, in a thread that ends with the process. It does not grow old.
pub(crate) fn serve(status: Status) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let published = Published {
            status: Arc::new(status),
            at: SystemClock.now(),
        };
        let (_latest, latest) = watch::channel(Some(published));
        let source = Source {
            latest,
            clock: Arc::new(SystemClock),
            poll_interval: Duration::from_secs(60),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            api::serve(listener, source).await.unwrap();
        });
    });
    address
}
