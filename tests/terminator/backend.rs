//! Servers that speak plain TCP, to be terminated before.
//!
//! A thread for each connection, and nothing ends them but the end of the process: a test is over
//! long before they are many.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// What a server does with a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Sends back whatever comes, and ends when its client has.
    Echo,
    /// Answers requests by HTTP/1.1, one a connection: a page, and the parts it asks for.
    Http,
}

/// What [`Kind::Http`] answers. The script asks for a part, and writes down what it got.
pub(crate) const PAGE: &str = "<!DOCTYPE html><title>behind the terminator</title>\
    <p id=\"part\">not yet</p><script>\
    fetch('/part').then(it => it.text()).then(it => \
    document.getElementById('part').textContent = it.toUpperCase())</script>\n";
const PART: &str = "the part has arrived";

/// Listens on loopback, and returns where.
pub(crate) fn start(kind: Kind) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::Builder::new()
        .name("backend".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = match kind {
                    Kind::Echo => echo,
                    Kind::Http => http,
                };
                // A client that goes concerns nobody else; one without a thread is hung up on.
                let _ = thread::Builder::new().spawn(move || serve(stream));
            }
        })?;
    Ok(address)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..len])?;
    }
}

fn http(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, kind, body) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", "text/html", PAGE),
        Some("/part") => ("200 OK", "text/plain", PART),
        _ => ("404 Not Found", "text/plain", "there is no such page\n"),
    };
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.shutdown(Shutdown::Write)
}
