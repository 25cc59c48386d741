//! A small driver on a card that lies, and a time that is told.

use crate::driver::{BUFFERS, Bus, CONTROL_QUEUE, DATA_QUEUE, Driver, IOVA, descriptor};
use card_device::dma::{Access, Backing};
use card_device::{Card, CardConfig};
use card_spec::crypto::{
    AkcipherCreate, AkcipherData, ControlHeader, DataHeader, SessionReply, Status, akcipher,
    control_opcode, curve, data_opcode, key_type, rsa_hash, rsa_padding,
};
use card_spec::health::{SUMMARY_LEN, Summary};
use card_spec::virtqueue::descriptor_flag;
use firmware_sim::engine::RustCrypto;
use firmware_sim::fault::{Fault, Injection, InjectionId, Script, SharedScript, Trigger, beset};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// When the card starts, to tell that from the time since.
const ORIGIN: Duration = Duration::from_secs(1_000_000);

/// A card that is called directly.
pub(crate) struct InProcess(pub(crate) Card);

impl Bus for InProcess {
    fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
        self.0.read_bar(bar, offset, buf);
    }

    fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
        self.0.write_bar(bar, offset, bytes);
    }

    fn write_config(&mut self, offset: u16, bytes: &[u8]) {
        self.0.write_config(usize::from(offset), bytes);
    }

    fn map(&mut self, iova: u64, len: u64, write: bool, file: &OwnedFd, offset: u64) {
        let file = file.try_clone().unwrap();
        let access = Access { read: true, write };
        let backing = Some(Backing { file, offset });
        self.0.map(iova, len, access, backing).unwrap();
    }

    fn wait(&mut self) {
        self.0.process();
    }
}

/// A driver, and what its card does not tell it.
pub(crate) struct Setup {
    pub(crate) driver: Driver<InProcess>,
    pub(crate) script: SharedScript,
    now: Duration,
}

impl Setup {
    pub(crate) fn honest() -> Self {
        Self::following(Script::new(1))
    }

    /// A card that has the faults from the start.
    pub(crate) fn with(faults: &[&str]) -> Self {
        let mut setup = Self::honest();
        for fault in faults {
            setup.inject(fault, Trigger::now());
        }
        setup.pass(Duration::ZERO);
        setup
    }

    pub(crate) fn following(script: Script) -> Self {
        let script = script.shared();
        let config = CardConfig::default();
        let mut card = beset(&config, Arc::new(RustCrypto), Arc::clone(&script)).unwrap();
        card.tick(ORIGIN);
        Self {
            driver: Driver::start(InProcess(card)),
            script,
            now: Duration::ZERO,
        }
    }

    pub(crate) fn inject(&self, fault: &str, trigger: Trigger) -> InjectionId {
        let fault: Fault = fault.parse().unwrap();
        self.script
            .lock()
            .unwrap()
            .add(Injection { fault, trigger })
    }

    pub(crate) fn clear_all(&mut self) {
        self.script.lock().unwrap().clear_all();
        self.pass(Duration::ZERO);
    }

    /// How often each injection has acted.
    pub(crate) fn acted(&self) -> Vec<u64> {
        let script = self.script.lock().unwrap();
        script.record().iter().map(|record| record.times).collect()
    }

    /// How many answers lies have made wrong.
    pub(crate) fn spoiled(&self) -> u64 {
        self.script.lock().unwrap().spoiled()
    }

    pub(crate) fn card(&mut self) -> &mut Card {
        &mut self.driver.bus.0
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = ORIGIN + self.now;
        self.card().tick(now);
    }

    pub(crate) fn summary(&mut self) -> Summary {
        let mut page = [0; SUMMARY_LEN];
        self.card().read_bar(Card::health_bar(), 0, &mut page);
        Summary::read_from_bytes(&page).unwrap()
    }

    pub(crate) fn beats(&mut self) -> u32 {
        self.summary().heartbeat_count.get()
    }

    /// An AES session.
    pub(crate) fn open_cipher(&mut self) -> u64 {
        let (status, session) = self.driver.open_session(&[7; 16]);
        assert_eq!(status, Status::OK);
        session
    }

    /// Whether the card encrypts now.
    pub(crate) fn works(&mut self, session: u64) -> bool {
        self.submit_cipher(session, 0);
        self.card().process();
        self.completed().is_some()
    }

    /// Submits a block to encrypt, in a chain that starts at descriptor `head`.
    pub(crate) fn submit_cipher(&mut self, session: u64, head: u16) {
        let data = crate::driver::cipher_data(session, 16, 16);
        let pieces = [data.as_bytes(), &[0; 16], &[3; 16]];
        for (index, piece) in pieces.iter().enumerate() {
            let at = head + index as u16;
            self.place(at, piece.len(), descriptor_flag::NEXT);
            self.driver.write(buffer(at), piece);
        }
        let last = head + pieces.len() as u16;
        self.place(last, 17, descriptor_flag::WRITE);
        self.driver.write(buffer(last), &[0xee; 17]);
        self.driver.offer(DATA_QUEUE, head);
    }

    fn place(&self, index: u16, len: usize, flags: u16) {
        let descriptor = descriptor(IOVA + buffer(index), len as u32, flags, index + 1);
        self.driver.write_descriptor(DATA_QUEUE, index, &descriptor);
    }

    /// The next used element of the data queue: head and length.
    pub(crate) fn completed(&mut self) -> Option<(u32, u32)> {
        let element = self.driver.completed(DATA_QUEUE)?;
        Some((element.id.get(), element.len.get()))
    }

    pub(crate) fn open_rsa(&mut self, key: &[u8], kind: u32, padding: u32) -> u64 {
        self.open(key, akcipher::RSA, kind, padding).unwrap()
    }

    pub(crate) fn open_p256(&mut self, key: &[u8]) -> u64 {
        self.open(key, akcipher::ECDSA, key_type::PRIVATE, curve::P256)
            .unwrap()
    }

    fn open(&mut self, key: &[u8], algo: u32, kind: u32, variant: u32) -> Result<u64, Status> {
        let hash = if (algo, variant) == (akcipher::RSA, rsa_padding::PKCS1) {
            rsa_hash::SHA256
        } else {
            rsa_hash::NONE
        };
        let request = AkcipherCreate {
            header: ControlHeader {
                opcode: control_opcode::AKCIPHER_CREATE.into(),
                ..ControlHeader::default()
            },
            algo: algo.into(),
            key_type: kind.into(),
            key_len: (key.len() as u32).into(),
            padding_or_curve: variant.into(),
            hash_algo: hash.into(),
            ..AkcipherCreate::default()
        };
        let readable = [request.as_bytes(), key];
        let (_, buffers) = self.driver.request(CONTROL_QUEUE, &readable, &[16]);
        let reply = SessionReply::read_from_bytes(&buffers[0]).unwrap();
        match Status(reply.status.get() as u8) {
            Status::OK => Ok(reply.session_id.get()),
            status => Err(status),
        }
    }

    pub(crate) fn sign(&mut self, session: u64, digest: &[u8]) -> Result<Vec<u8>, Status> {
        self.perform(session, data_opcode::AKCIPHER_SIGN, digest, 256)
    }

    /// Whether the card says that a signature is right.
    pub(crate) fn verify(&mut self, session: u64, signature: &[u8], digest: &[u8]) -> bool {
        let request = AkcipherData {
            header: DataHeader {
                opcode: data_opcode::AKCIPHER_VERIFY.into(),
                session_id: session.into(),
                ..DataHeader::default()
            },
            src_len: (signature.len() as u32).into(),
            dst_len: (digest.len() as u32).into(),
            ..AkcipherData::default()
        };
        let readable = [request.as_bytes(), signature, digest];
        let (_, buffers) = self.driver.request(DATA_QUEUE, &readable, &[1]);
        match Status(buffers[0][0]) {
            Status::OK => true,
            Status::KEY_REJECTED => false,
            status => panic!("{status:?}"),
        }
    }

    /// An asymmetric operation, with `room` for its result.
    pub(crate) fn perform(
        &mut self,
        session: u64,
        opcode: u32,
        source: &[u8],
        room: u32,
    ) -> Result<Vec<u8>, Status> {
        let request = AkcipherData {
            header: DataHeader {
                opcode: opcode.into(),
                session_id: session.into(),
                ..DataHeader::default()
            },
            src_len: (source.len() as u32).into(),
            dst_len: room.into(),
            ..AkcipherData::default()
        };
        let readable = [request.as_bytes(), source];
        let (len, mut buffers) = self.driver.request(DATA_QUEUE, &readable, &[room, 1]);
        let mut result = buffers.swap_remove(0);
        result.truncate(len as usize - 1);
        match Status(buffers[0][0]) {
            Status::OK => Ok(result),
            status => Err(status),
        }
    }
}

/// Where the buffer of a descriptor is.
fn buffer(index: u16) -> u64 {
    BUFFERS + 0x1000 * u64::from(index)
}
