//! An authority that lives as long as a test, and certificates by it for `localhost`, made by
//! OpenSSL: what the terminator reads was written by another program, as a user's would be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One that this repository has anyway: to make one takes seconds, and now and then many.
const RSA_4096: &[u8] = include_bytes!("../../hwshim/src/kat/rsa-4096.pkcs1.der");

/// What all certificates are for.
pub(crate) const NAME: &str = "localhost";

/// A kind of key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    Rsa2048,
    Rsa4096,
    P256,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Signs certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Writes all its files to `directory`.
    pub(crate) fn found(directory: &Path) -> io::Result<Self> {
        let authority = Self {
            directory: directory.to_owned(),
        };
        let mut request = authority.request("authority", Key::P256)?;
        request.args(["-subj", "/CN=authority of a test"]);
        finish(request)?;
        Ok(authority)
    }

    /// What clients are to believe.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// A certificate for [`NAME`], in files that are called after `file`, whose subject is `subject`
    /// so that two can be told apart.
    pub(crate) fn issue(&self, file: &str, key: Key, subject: &str) -> io::Result<Identity> {
        let mut request = self.request(file, key)?;
        request
            .arg("-CA")
            .arg(self.certificate())
            .arg("-CAkey")
            .arg(self.directory.join("authority.key"))
            .args(["-subj", &format!("/CN={subject}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        finish(request)?;
        Ok(Identity {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
        })
    }

    fn request(&self, file: &str, key: Key) -> io::Result<Command> {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-noenc", "-sha256", "-days", "2"]);
        match key {
            Key::Rsa2048 => command.args(["-newkey", "rsa:2048"]),
            Key::Rsa4096 => {
                let made = self.directory.join("rsa-4096.der");
                fs::write(&made, RSA_4096)?;
                command.args(["-keyform", "DER", "-key"]).arg(made)
            }
            Key::P256 => command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        };
        command
            .arg("-keyout")
            .arg(self.directory.join(format!("{file}.key")))
            .arg("-out")
            .arg(self.directory.join(format!("{file}.pem")));
        Ok(command)
    }
}

fn finish(mut command: Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(
            error.kind(),
            "openssl does not run: install it (on Debian, apt install openssl)",
        )
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("openssl failed: {said}")));
    }
    Ok(())
}

/// Puts one identity where another is, as a renewal does.
pub(crate) fn replace(old: &Identity, new: &Identity) -> io::Result<()> {
    fs::copy(&new.certificate, &old.certificate)?;
    fs::copy(&new.key, &old.key)?;
    Ok(())
}
