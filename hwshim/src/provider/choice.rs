//! Whether a signature is worth handing over: the one place where TLS asks that.
//!
//! It is the router that knows, from what it has measured of accelerators and software and from what
//! is under way. It is told of handshakes that will need a signature, and of signatures that are made
//! without it. Without that, a server whose one thread signs in software would look
//! idle to it, however many connections wait.

use crate::key::{SignatureScheme, SigningKey};
use crate::router::Router;
use crate::router::choice::Caller;

/// Whether a signature by `key` should go to the router, for a `caller` that waits for it.
pub(super) fn pays(
    router: &Router,
    scheme: SignatureScheme,
    key: &SigningKey,
    caller: Caller,
) -> bool {
    router.would_offload(scheme, key, caller).is_accelerator()
}
