//! Q2: Linux's own driver for virtio-crypto on our card.
//!
//! The kernel tests an algorithm before it lets anybody use it, and says so in /proc/crypto. It
//! has no test for RSA with PKCS #1 padding. So a key is used through keyctl as well: what the
//! card signed and encrypted must satisfy the kernel's software, once the driver is unloaded.

use super::card::Card;
use super::guest::Guest;
use super::report::Answer;
use super::{Bench, Case, Linux, Qualification, Verdict};
use anyhow::{Context, ensure};
use std::fmt::Write as _;
use std::time::Duration;

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q2",
    judged: "our card, driven by Linux",
    cases: &[
        Case {
            name: "q2-stable",
            run: |bench| run(bench, "q2-stable", Linux::Stable),
        },
        Case {
            name: "q2-newest",
            run: |bench| run(bench, "q2-newest", Linux::Newest),
        },
    ],
};

/// Far longer than self-tests take, emulated by a busy machine.
const SELF_TESTS: Duration = Duration::from_secs(60);

/// The algorithms that must be there. Before Linux 6.13 padding went together with a hash.
const REQUIRED: [&str; 3] = ["cbc(aes)", "rsa", "pkcs1pad(rsa"];

fn run(bench: &Bench, name: &str, linux: Linux) -> anyhow::Result<Verdict> {
    let card = Card::start(bench, name)?;
    let mut guest = bench.boot_newest(name, linux, "", &card.plain_machine())?;
    load(&mut guest)?;
    // The driver is ready before the tests have ended.
    let are_tested = |answer: &Answer| !answer.stdout.contains("larval");
    let registered = guest.until("cat /proc/crypto", SELF_TESTS, are_tested)?;
    let registered = registered.success()?.stdout;
    let registered = tested(&registered)?;
    keys_are_used_well(&mut guest)?;
    Ok(Verdict {
        against: guest.versions(),
        found: format!(
            "self-tests passed of {registered}; the kernel's software agrees with signatures and \
             encryption by the card"
        ),
    })
}

/// Loads the driver, which must find the card ready.
pub(super) fn load(guest: &mut Guest) -> anyhow::Result<()> {
    guest.succeed("modprobe virtio_pci; modprobe virtio_crypto")?;
    let log = guest.succeed("dmesg")?;
    let ready = log.contains("Accelerator device is ready");
    ensure!(ready, "the kernel does not say that the card is ready");
    Ok(())
}

/// An algorithm in /proc/crypto.
#[derive(Debug, Eq, PartialEq)]
struct Registered<'a> {
    name: &'a str,
    driver: &'a str,
    selftest: &'a str,
    /// A `larval` stands for an algorithm while it is tested.
    kind: &'a str,
}

/// The algorithms in what /proc/crypto says: paragraphs of names and values.
fn algorithms(text: &str) -> Vec<Registered<'_>> {
    text.split("\n\n").filter_map(algorithm).collect()
}

fn algorithm(paragraph: &str) -> Option<Registered<'_>> {
    let value = |name: &str| {
        let mut lines = paragraph.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| (key.trim() == name).then_some(value.trim()))
    };
    Some(Registered {
        name: value("name")?,
        driver: value("driver")?,
        selftest: value("selftest")?,
        kind: value("type")?,
    })
}

/// The card's algorithms, by name, if all that are required are among them and all passed their test.
fn tested(text: &str) -> anyhow::Result<String> {
    let mut all = algorithms(text);
    // The driver's own are called virtio_crypto_aes_cbc and virtio-crypto-rsa.
    all.retain(|it| it.driver.starts_with("virtio") && it.kind != "larval");
    for required in REQUIRED {
        let is_it = |it: &&Registered<'_>| match required.ends_with("(rsa") {
            true => it.name.starts_with(required),
            false => it.name == required,
        };
        let registered = all.iter().any(|it| is_it(&it));
        ensure!(registered, "{required} is not registered: {all:?}");
    }
    for found in &all {
        ensure!(found.selftest == "passed", "self-test: {found:?}");
    }
    let names: Vec<_> = all.iter().map(|it| it.name).collect();
    Ok(names.join(", "))
}

/// A key that is only used in tests, as RSAPrivateKey (RFC 8017 appendix A.1.2).
const RSA_KEY: &[u8] = include_bytes!("../../../../hwshim/src/kat/rsa-2048.pkcs1.der");

/// keyctl of the newest release, with its libraries.
const KEYCTL: &str = "/opt/ld-linux-x86-64.so.2 --library-path /opt /opt/keyctl";

/// Has the card sign and encrypt, and software verify and decrypt.
fn keys_are_used_well(guest: &mut Guest) -> anyhow::Result<()> {
    give_key(guest)?;
    let before = interrupts(guest)?;
    let with = "enc=pkcs1 hash=sha1";
    with_key(
        guest,
        &format!(
            "keyctl pkey_sign $key 0 /tmp/digest {with} > /tmp/signature && \
             keyctl pkey_verify $key 0 /tmp/digest /tmp/signature {with} && \
             keyctl pkey_encrypt $key 0 /tmp/secret enc=pkcs1 > /tmp/encrypted && \
             keyctl pkey_decrypt $key 0 /tmp/encrypted enc=pkcs1 > /tmp/decrypted && \
             cmp /tmp/secret /tmp/decrypted"
        ),
    )
    .context("by the card")?;
    let used = interrupts(guest)?.saturating_sub(before);
    ensure!(used >= 4, "the card signalled {used} answers to 4 requests");
    guest.succeed("rmmod virtio_crypto")?;
    let left = guest.succeed("grep -c virtio /proc/crypto || true")?;
    ensure!(left.trim() == "0", "unloading leaves {left} algorithms");
    with_key(
        guest,
        &format!(
            "keyctl pkey_verify $key 0 /tmp/digest /tmp/signature {with} && \
             keyctl pkey_decrypt $key 0 /tmp/encrypted enc=pkcs1 > /tmp/decrypted && \
             cmp /tmp/secret /tmp/decrypted"
        ),
    )
    .context("by software")
}

/// Leaves the key, a digest and something to encrypt in the guest.
pub(super) fn give_key(guest: &mut Guest) -> anyhow::Result<()> {
    guest.succeed("modprobe pkcs8_key_parser")?;
    let key = hex(&pkcs8(RSA_KEY));
    guest.succeed(&format!("echo {key} | xxd -r -p > /tmp/key"))?;
    guest.succeed("printf 01234567890123456789 > /tmp/digest; cp /tmp/digest /tmp/secret")?;
    Ok(())
}

/// Runs a command with `$key` the number of the key, in a session that possesses it.
pub(super) fn with_key(guest: &mut Guest, command: &str) -> anyhow::Result<()> {
    guest.succeed(&format!(
        "echo 'keyctl() {{ {KEYCTL} \"$@\"; }}; \
         key=$(keyctl padd asymmetric key @s < /tmp/key) && {command}' > /tmp/script; \
         {KEYCTL} session - sh /tmp/script"
    ))?;
    Ok(())
}

/// How often the card has signalled that it answered.
fn interrupts(guest: &mut Guest) -> anyhow::Result<u64> {
    let line = guest.succeed("grep dataq /proc/interrupts")?;
    let count = line.split_whitespace().nth(1);
    let count = count.with_context(|| format!("no count in {line:?}"))?;
    Ok(count.parse()?)
}

/// An RSAPrivateKey as PrivateKeyInfo (RFC 5208 section 5 "Private-Key Information Syntax"), which
/// is what Linux reads.
fn pkcs8(key: &[u8]) -> Vec<u8> {
    let version_and_algorithm = [
        2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0,
    ];
    let content = [&version_and_algorithm, &*element(4, key)].concat();
    element(0x30, &content)
}

/// An element of DER whose content has a length of 256 to 65535.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).expect("keys are shorter");
    [&[tag, 0x82], &len.to_be_bytes()[..], content].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "\
        name         : pkcs1pad(rsa,sha1)\n\
        driver       : virtio-pkcs1-rsa-with-sha1\n\
        selftest     : passed\n\
        type         : akcipher\n\n\
        name         : rsa\n\
        driver       : virtio-crypto-rsa\n\
        selftest     : passed\n\
        type         : akcipher\n\n\
        name         : cbc(aes)\n\
        driver       : virtio_crypto_aes_cbc\n\
        module       : virtio_crypto\n\
        selftest     : passed\n\
        type         : skcipher\n\n\
        name         : rsa\n\
        driver       : rsa-generic\n\
        selftest     : passed\n\
        type         : akcipher\n";

    #[test]
    fn algorithms_of_the_card_are_told_from_the_others() {
        assert_eq!(algorithms(STABLE).len(), 4);
        assert_eq!(tested(STABLE).unwrap(), "pkcs1pad(rsa,sha1), rsa, cbc(aes)");
        let newest = STABLE.replace("(rsa,sha1)", "(rsa)");
        assert_eq!(tested(&newest).unwrap(), "pkcs1pad(rsa), rsa, cbc(aes)");
    }

    #[test]
    fn software_does_not_stand_in_for_the_card() {
        let without = STABLE.replace("virtio-crypto-rsa", "rsa-assembly");
        let error = tested(&without).unwrap_err().to_string();
        assert!(error.contains("rsa is not registered"), "{error}");
        tested("").unwrap_err();
    }

    #[test]
    fn an_algorithm_that_did_not_pass_fails_all() {
        for selftest in ["unknown", "failed"] {
            let (before, cbc) = STABLE.split_at(STABLE.find("name         : cbc").unwrap());
            let cbc = cbc.replacen("passed", selftest, 1);
            let larval = cbc
                .replacen("skcipher", "larval", 1)
                .replacen(selftest, "passed", 1);
            let error = tested(&format!("{before}{larval}\n{cbc}")).unwrap_err();
            assert!(error.to_string().contains(selftest), "{error}");
        }
    }

    #[test]
    fn a_key_is_wrapped_with_its_length() {
        let wrapped = pkcs8(&[7; 256]);
        assert_eq!(wrapped[..4], [0x30, 0x82, 1, 22]);
        assert_eq!(wrapped[22..26], [4, 0x82, 1, 0]);
        assert_eq!(wrapped.len(), 26 + 256);
        assert_eq!(hex(&wrapped[..4]), "30820116");
    }
}
