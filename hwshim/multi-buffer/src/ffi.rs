//! The C interface of crypto_mb, behind functions that cannot be called wrongly.
//!
//! A call takes arrays of eight pointers, one for each lane. A lane that is not used is null in
//! all of them; the library writes nothing for it and gives it a status of its own. It reads and
//! writes exactly as many bytes as the length of the key says, which is why lanes are made of
//! slices whose lengths are checked here.

#![expect(
    unsafe_code,
    reason = "loads a library written in C, and calls it by pointers"
)]

use crate::LoadError;
use crate::ecdsa::Curve;
use crate::lanes::{LANES, Statuses};
use crate::rsa::RsaLen;
use crate::x25519::X25519_LEN;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use zeroize::Zeroize;

/// The interface whose functions are declared below; the file name of the library ends in it.
const INTERFACE: u32 = 13;

/// `mbx_status`.
type Status = u32;
/// Eight of `const int8u*`.
type BytesIn = [*const u8; LANES];
/// Eight of `int8u*`.
type BytesOut = [*mut u8; LANES];
/// Eight of `const int64u*`.
type WordsIn = [*const u64; LANES];
/// `mbx_RSA_Method`, which only the library looks into.
type Method = *const c_void;

/// `mbxVersion`.
#[repr(C)]
struct Version {
    major: c_int,
    minor: c_int,
    patch: c_int,
    target_cpu: [c_char; 4],
    name: *const c_char,
    build_date: *const c_char,
    text: *const c_char,
}

type GetVersion = unsafe extern "C" fn() -> *const Version;
type IsApplicable = unsafe extern "C" fn(features: u64) -> c_int;
type RsaMethod = unsafe extern "C" fn(bits: c_int) -> Method;
type RsaMethodBufSize = unsafe extern "C" fn(method: Method) -> c_int;
type RsaPrivateCrt = unsafe extern "C" fn(
    from: *const BytesIn,
    to: *const BytesOut,
    p: *const WordsIn,
    q: *const WordsIn,
    dp: *const WordsIn,
    dq: *const WordsIn,
    qinv: *const WordsIn,
    bits: c_int,
    method: Method,
    scratch: *mut u8,
) -> Status;
type RsaPublic = unsafe extern "C" fn(
    from: *const BytesIn,
    to: *const BytesOut,
    n: *const WordsIn,
    bits: c_int,
    method: Method,
    scratch: *mut u8,
) -> Status;
type EcdsaSign = unsafe extern "C" fn(
    r: *const BytesOut,
    s: *const BytesOut,
    message: *const BytesIn,
    nonce: *const WordsIn,
    key: *const WordsIn,
    scratch: *mut u8,
) -> Status;
type X25519Public =
    unsafe extern "C" fn(public: *const BytesOut, private: *const BytesIn) -> Status;
type X25519 = unsafe extern "C" fn(
    shared: *const BytesOut,
    private: *const BytesIn,
    public: *const BytesIn,
) -> Status;

/// The library, and its functions.
pub(crate) struct Library {
    get_version: GetVersion,
    is_applicable: IsApplicable,
    rsa_private_crt_method: RsaMethod,
    rsa_public_method: RsaMethod,
    rsa_method_buf_size: RsaMethodBufSize,
    rsa_private_crt: RsaPrivateCrt,
    rsa_public: RsaPublic,
    p256_sign: EcdsaSign,
    p384_sign: EcdsaSign,
    x25519_public: X25519Public,
    x25519: X25519,
    /// Keeps the code in memory that the functions above are.
    _code: libloading::Library,
}

/// One RSA operation with the private key. All numbers but `input` and `output` are words, least
/// significant first.
pub(crate) struct RsaPrivateLane<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) output: &'a mut [u8],
    pub(crate) p: &'a [u64],
    pub(crate) q: &'a [u64],
    pub(crate) dp: &'a [u64],
    pub(crate) dq: &'a [u64],
    pub(crate) qinv: &'a [u64],
}

/// One RSA operation with the public exponent 65537.
pub(crate) struct RsaPublicLane<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) output: &'a mut [u8],
    pub(crate) n: &'a [u64],
}

/// One signature on a curve.
pub(crate) struct EcdsaLane<'a> {
    pub(crate) r: &'a mut [u8],
    pub(crate) s: &'a mut [u8],
    pub(crate) digest: &'a [u8],
    pub(crate) nonce: &'a [u64],
    pub(crate) key: &'a [u64],
}

/// One operation on Curve25519; with the base point if there is no public key.
pub(crate) struct X25519Lane<'a> {
    pub(crate) output: &'a mut [u8; X25519_LEN],
    pub(crate) private: &'a [u8; X25519_LEN],
    pub(crate) public: &'a [u8; X25519_LEN],
}

impl Library {
    /// Loads the library that `name` is the path of, or that the loader knows by this name.
    pub(crate) fn load(name: &OsStr) -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's initialisers, so it must be a library that this
        // process may run. It is named by whoever configured the process or found where only an
        // administrator installs, as if it had been linked.
        let code = unsafe { libloading::Library::new(name) };
        let code = code.map_err(|reason| LoadError::NotLoadable {
            path: name.to_string_lossy().into_owned(),
            reason,
        })?;
        Ok(Self {
            get_version: function(&code, "mbx_getversion")?,
            is_applicable: function(&code, "mbx_is_crypto_mb_applicable")?,
            rsa_private_crt_method: function(&code, "mbx_RSA_private_crt_Method")?,
            rsa_public_method: function(&code, "mbx_RSA_pub65537_Method")?,
            rsa_method_buf_size: function(&code, "mbx_RSA_Method_BufSize")?,
            rsa_private_crt: function(&code, "mbx_rsa_private_crt_mb8")?,
            rsa_public: function(&code, "mbx_rsa_public_mb8")?,
            p256_sign: function(&code, "mbx_nistp256_ecdsa_sign_mb8")?,
            p384_sign: function(&code, "mbx_nistp384_ecdsa_sign_mb8")?,
            x25519_public: function(&code, "mbx_x25519_public_key_mb8")?,
            x25519: function(&code, "mbx_x25519_mb8")?,
            _code: code,
        })
    }

    /// Whether the functions take what is declared here.
    ///
    /// Asked before any other function is called: `mbx_getversion` has been the same in every
    /// interface there was.
    pub(crate) fn check_interface(&self) -> Result<(), LoadError> {
        let found = self.version();
        if interface_of(&found) == Some(INTERFACE) {
            return Ok(());
        }
        Err(LoadError::OtherInterface {
            found,
            wanted: INTERFACE,
        })
    }

    /// `crypto_mb (k1) (ver: 2.3.0 (13.3) build: ...)`.
    pub(crate) fn version(&self) -> String {
        // SAFETY: it takes nothing, and returns a pointer to a constant of the library or null.
        let version = unsafe { (self.get_version)() };
        // SAFETY: if not null it points to a `mbxVersion`, whose layout `Version` has, and which
        // lives as long as the library, which `self` keeps.
        let Some(version) = (unsafe { version.as_ref() }) else {
            return String::new();
        };
        if version.text.is_null() {
            return String::new();
        }
        // SAFETY: not null, so a string constant of the library, with a zero at its end, and it
        // lives as long as the library.
        let text = unsafe { CStr::from_ptr(version.text) };
        text.to_string_lossy().into_owned()
    }

    /// Whether the library has code for this processor.
    pub(crate) fn is_applicable(&self) -> bool {
        // SAFETY: it takes a mask, of which zero stands for the processor's own, and no pointer.
        let applicable = unsafe { (self.is_applicable)(0) };
        applicable != 0
    }

    /// RSA with private keys of one length.
    pub(crate) fn rsa_private(
        &self,
        len: RsaLen,
        lanes: &mut [Option<RsaPrivateLane<'_>>],
    ) -> Statuses {
        let (mut from, mut to) = ([null(); LANES], [null_mut(); LANES]);
        let mut key = [[null::<u64>(); LANES]; 5];
        assert!(lanes.len() <= LANES, "a call has eight lanes");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            assert_eq!(
                lane.input.len(),
                len.bytes(),
                "input as long as the modulus"
            );
            assert_eq!(
                lane.output.len(),
                len.bytes(),
                "output as long as the modulus"
            );
            from[index] = lane.input.as_ptr();
            to[index] = lane.output.as_mut_ptr();
            let numbers = [lane.p, lane.q, lane.dp, lane.dq, lane.qinv];
            for (pointers, number) in key.iter_mut().zip(numbers) {
                assert_eq!(
                    number.len(),
                    len.prime_words(),
                    "half as long as the modulus"
                );
                pointers[index] = number.as_ptr();
            }
        }
        // SAFETY: it takes a number and no pointer.
        let method = unsafe { (self.rsa_private_crt_method)(len.bits()) };
        let mut scratch = self.scratch(method);
        let [p, q, dp, dq, qinv] = &key;
        // SAFETY: each array has eight pointers. Those of a lane are all null, or each points to
        // as many bytes or words as `bits` says, as was asserted, which are borrowed by `lanes`
        // until after the call, the output mutably. `method` is the library's own for `bits`, and
        // the scratch memory as long as the library says that this method needs.
        let statuses = unsafe {
            (self.rsa_private_crt)(
                &raw const from,
                &raw const to,
                p,
                q,
                dp,
                dq,
                qinv,
                len.bits(),
                method,
                scratch.pointer(),
            )
        };
        Statuses(statuses)
    }

    /// RSA with public keys of one length, all of the exponent 65537.
    pub(crate) fn rsa_public(
        &self,
        len: RsaLen,
        lanes: &mut [Option<RsaPublicLane<'_>>],
    ) -> Statuses {
        let (mut from, mut to) = ([null(); LANES], [null_mut(); LANES]);
        let mut n = [null(); LANES];
        assert!(lanes.len() <= LANES, "a call has eight lanes");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            assert_eq!(
                lane.input.len(),
                len.bytes(),
                "input as long as the modulus"
            );
            assert_eq!(
                lane.output.len(),
                len.bytes(),
                "output as long as the modulus"
            );
            assert_eq!(lane.n.len(), 2 * len.prime_words(), "the modulus");
            from[index] = lane.input.as_ptr();
            to[index] = lane.output.as_mut_ptr();
            n[index] = lane.n.as_ptr();
        }
        // SAFETY: it takes a number and no pointer.
        let method = unsafe { (self.rsa_public_method)(len.bits()) };
        let mut scratch = self.scratch(method);
        // SAFETY: as for the private key.
        let statuses = unsafe {
            (self.rsa_public)(
                &raw const from,
                &raw const to,
                &raw const n,
                len.bits(),
                method,
                scratch.pointer(),
            )
        };
        Statuses(statuses)
    }

    /// Signs on one curve.
    pub(crate) fn ecdsa_sign(&self, curve: Curve, lanes: &mut [Option<EcdsaLane<'_>>]) -> Statuses {
        let (mut r, mut s) = ([null_mut(); LANES], [null_mut(); LANES]);
        let mut digest = [null(); LANES];
        let (mut nonce, mut key) = ([null(); LANES], [null(); LANES]);
        assert!(lanes.len() <= LANES, "a call has eight lanes");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            let lens = [lane.r.len(), lane.s.len(), lane.digest.len()];
            assert_eq!(lens, [curve.len(); 3], "as long as the order of the curve");
            let lens = [lane.nonce.len(), lane.key.len()];
            assert_eq!(lens, [curve.len() / 8; 2], "as many words as the order has");
            r[index] = lane.r.as_mut_ptr();
            s[index] = lane.s.as_mut_ptr();
            digest[index] = lane.digest.as_ptr();
            nonce[index] = lane.nonce.as_ptr();
            key[index] = lane.key.as_ptr();
        }
        let sign = match curve {
            Curve::P256 => self.p256_sign,
            Curve::P384 => self.p384_sign,
        };
        // SAFETY: each array has eight pointers. Those of a lane are all null, or each points to
        // as many bytes or words as the curve's order has, as was asserted, borrowed by `lanes`
        // until after the call, the outputs mutably. The library takes null for scratch memory
        // that it then has on its own stack.
        let statuses = unsafe {
            sign(
                &raw const r,
                &raw const s,
                &raw const digest,
                &raw const nonce,
                &raw const key,
                null_mut(),
            )
        };
        Statuses(statuses)
    }

    /// Shared secrets on Curve25519.
    pub(crate) fn x25519(&self, lanes: &mut [Option<X25519Lane<'_>>]) -> Statuses {
        let mut output = [null_mut(); LANES];
        let (mut private, mut public) = ([null(); LANES], [null(); LANES]);
        assert!(lanes.len() <= LANES, "a call has eight lanes");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            output[index] = lane.output.as_mut_ptr();
            private[index] = lane.private.as_ptr();
            public[index] = lane.public.as_ptr();
        }
        // SAFETY: each array has eight pointers. Those of a lane are all null, or each points to
        // 32 bytes, as their types say, borrowed by `lanes` until after the call, the output
        // mutably.
        let statuses =
            unsafe { (self.x25519)(&raw const output, &raw const private, &raw const public) };
        Statuses(statuses)
    }

    /// Public keys on Curve25519; what the lanes have for one is not looked at.
    pub(crate) fn x25519_public(&self, lanes: &mut [Option<X25519Lane<'_>>]) -> Statuses {
        let (mut output, mut private) = ([null_mut(); LANES], [null(); LANES]);
        assert!(lanes.len() <= LANES, "a call has eight lanes");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            output[index] = lane.output.as_mut_ptr();
            private[index] = lane.private.as_ptr();
        }
        // SAFETY: as for the shared secret.
        let statuses = unsafe { (self.x25519_public)(&raw const output, &raw const private) };
        Statuses(statuses)
    }

    /// Memory for a method to work in.
    fn scratch(&self, method: Method) -> Scratch {
        assert!(
            !method.is_null(),
            "crypto_mb has code for 2048, 3072 and 4096 bits"
        );
        // SAFETY: the method is the library's own and not null, as was asserted.
        let len = unsafe { (self.rsa_method_buf_size)(method) };
        Scratch::new(usize::try_from(len).expect("a length is not negative"))
    }
}

/// Looks up a function.
fn function<T: Copy>(code: &libloading::Library, name: &'static str) -> Result<T, LoadError> {
    // SAFETY: `T` is the type that crypto_mb's headers declare the function of this name with. In
    // a library of another interface it may have another; `Library::check_interface` refuses
    // that before any but `mbx_getversion` is called.
    let symbol = unsafe { code.get::<T>(name.as_bytes()) };
    symbol
        .map(|symbol| *symbol)
        .map_err(|_| LoadError::NoFunction { name })
}

/// The major number of the interface, out of a text like `crypto_mb (k1) (ver: 2.3.0 (13.3) ...)`.
fn interface_of(version: &str) -> Option<u32> {
    let numbers = version.split('(').map(|part| part.split('.').next());
    numbers.flatten().find_map(|number| number.parse().ok())
}

/// Memory to work in, which holds powers of secrets afterwards and is wiped.
struct Scratch {
    memory: Vec<u8>,
    start: usize,
}

/// Length of the widest register, which the library's own buffers are aligned to.
const ALIGNMENT: usize = 64;

impl Scratch {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start }
    }

    fn pointer(&mut self) -> *mut u8 {
        self.memory[self.start..].as_mut_ptr()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.memory.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_read_from_what_the_library_calls_itself() {
        let text = "crypto_mb (k1) (ver: 2.3.0 (13.3) build: Sep  8 2026)";
        assert_eq!(interface_of(text), Some(13));
        assert_eq!(interface_of("crypto_mb (ver 1.2.3 Oct 28 2019)"), None);
        assert_eq!(interface_of("(11.9)"), Some(11));
        assert_eq!(interface_of(""), None);
    }

    #[test]
    fn another_library_is_refused_by_the_function_it_lacks() {
        let error = Library::load(OsStr::new("libc.so.6")).err();
        assert!(
            matches!(
                error,
                Some(LoadError::NoFunction {
                    name: "mbx_getversion"
                })
            ),
            "{error:?}"
        );
    }

    #[test]
    fn memory_to_work_in_is_aligned_and_long_enough() {
        for len in [0, 1, 63, 64, 65, 54_720] {
            let mut scratch = Scratch::new(len);
            assert!(scratch.memory.len() - scratch.start >= len);
            assert_eq!(scratch.pointer().align_offset(ALIGNMENT), 0);
        }
    }
}
