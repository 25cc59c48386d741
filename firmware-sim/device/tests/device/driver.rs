//! A small driver for tests: it does what it is told, right or wrong, and checks nothing.

use card_device::engine::{Engine, Offer, Operation, Session, SessionSpec};
use card_spec::crypto::{
    CipherCreate, CipherData, ControlHeader, DataHeader, DestroySession, SessionReply, Status,
};
use card_spec::crypto::{cipher, control_opcode, data_opcode, direction, symmetric_op_type};
use card_spec::virtio_pci::{common, feature, status};
use card_spec::virtqueue::{
    Descriptor, UsedElement, available_ring_len, descriptor_area_len, descriptor_flag,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub(crate) const IOVA: u64 = 0x4000_0000;
pub(crate) const MEMORY_LEN: u64 = 1 << 20;
/// Bytes each queue has for its rings.
const RINGS_LEN: u64 = 0x8000;
/// Where buffers start.
pub(crate) const BUFFERS: u64 = 4 * RINGS_LEN;
pub(crate) const QUEUE_SIZE: u16 = 64;
pub(crate) const FEATURES: u64 = 1 << feature::VERSION_1
    | 1 << feature::ACCESS_PLATFORM
    | 1 << feature::RING_RESET
    | 1 << feature::INDIRECT_DESC;
pub(crate) const DATA_QUEUE: u16 = 0;
pub(crate) const CONTROL_QUEUE: u16 = 1;
pub(crate) const NOTIFY: u64 = 0x3000;

/// How the driver reaches the card.
pub(crate) trait Bus {
    fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]);
    fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]);
    fn write_config(&mut self, offset: u16, bytes: &[u8]);
    fn map(&mut self, iova: u64, len: u64, write: bool, file: &OwnedFd, offset: u64);
    /// Called while waiting for an answer.
    fn wait(&mut self);
}

/// The driver's memory and where it is in its rings.
pub(crate) struct Driver<B> {
    pub(crate) bus: B,
    pub(crate) memory: OwnedFd,
    next_available: [u16; 2],
    next_used: [u16; 2],
}

impl<B: Bus> Driver<B> {
    /// Shares memory and brings the device up.
    pub(crate) fn start(bus: B) -> Self {
        let memory = memfd_create(c"driver", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, MEMORY_LEN).unwrap();
        let mut driver = Self {
            bus,
            memory,
            next_available: [0; 2],
            next_used: [0; 2],
        };
        driver.bus.map(IOVA, MEMORY_LEN, true, &driver.memory, 0);
        driver.bus.write_config(4, &6_u16.to_le_bytes());
        driver.bring_up();
        driver
    }

    pub(crate) fn bring_up(&mut self) {
        self.write_common(common::DEVICE_STATUS, &[0]);
        let mut value = status::ACKNOWLEDGE | status::DRIVER;
        self.write_common(common::DEVICE_STATUS, &[value]);
        for (select, bits) in [(0_u32, FEATURES as u32), (1, (FEATURES >> 32) as u32)] {
            self.write_common(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.write_common(common::DRIVER_FEATURE, &bits.to_le_bytes());
        }
        value |= status::FEATURES_OK;
        self.write_common(common::DEVICE_STATUS, &[value]);
        assert_eq!(self.device_status(), value);
        for queue in [DATA_QUEUE, CONTROL_QUEUE] {
            self.enable_queue(queue);
        }
        value |= status::DRIVER_OK;
        self.write_common(common::DEVICE_STATUS, &[value]);
    }

    pub(crate) fn enable_queue(&mut self, queue: u16) {
        let index = usize::from(queue);
        self.next_available[index] = 0;
        self.next_used[index] = 0;
        let rings = u64::from(queue) * RINGS_LEN;
        self.write(rings, &vec![0; RINGS_LEN as usize]);
        self.write_common(common::QUEUE_SELECT, &queue.to_le_bytes());
        self.write_common(common::QUEUE_SIZE, &QUEUE_SIZE.to_le_bytes());
        self.write_common(common::QUEUE_MSIX_VECTOR, &(queue + 1).to_le_bytes());
        self.write_common(common::QUEUE_DESC, &(IOVA + rings).to_le_bytes());
        self.write_common(
            common::QUEUE_DRIVER,
            &(IOVA + available(queue)).to_le_bytes(),
        );
        self.write_common(common::QUEUE_DEVICE, &(IOVA + used(queue)).to_le_bytes());
        self.write_common(common::QUEUE_ENABLE, &1_u16.to_le_bytes());
    }

    pub(crate) fn write_common(&mut self, offset: u64, bytes: &[u8]) {
        self.bus.write_bar(0, offset, bytes);
    }

    pub(crate) fn device_status(&mut self) -> u8 {
        let mut value = [0];
        self.bus.read_bar(0, common::DEVICE_STATUS, &mut value);
        value[0]
    }

    pub(crate) fn needs_reset(&mut self) -> bool {
        self.device_status() & status::DEVICE_NEEDS_RESET != 0
    }

    pub(crate) fn health(&mut self, offset: u64) -> u32 {
        let mut value = [0; 4];
        self.bus.read_bar(2, offset, &mut value);
        u32::from_le_bytes(value)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        assert_eq!(pwrite(&self.memory, bytes, offset), Ok(bytes.len()));
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(pread(&self.memory, &mut bytes[..], offset), Ok(len));
        bytes
    }

    pub(crate) fn write_descriptor(&self, queue: u16, index: u16, descriptor: &Descriptor) {
        let offset = u64::from(queue) * RINGS_LEN + 16 * u64::from(index);
        self.write(offset, descriptor.as_bytes());
    }

    /// Makes the chain that starts at `head` available, and rings.
    pub(crate) fn offer(&mut self, queue: u16, head: u16) {
        let index = &mut self.next_available[usize::from(queue)];
        let slot = u64::from(*index % QUEUE_SIZE);
        *index = index.wrapping_add(1);
        let index = *index;
        self.write(available(queue) + 4 + 2 * slot, &head.to_le_bytes());
        self.write(available(queue) + 2, &index.to_le_bytes());
        let doorbell = NOTIFY + 4 * u64::from(queue);
        self.bus.write_bar(0, doorbell, &queue.to_le_bytes());
    }

    /// Submits one request as a chain of descriptors 0, 1, 2 ..., each at a page of its own.
    pub(crate) fn submit(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) {
        let count = readable.len() + writable.len();
        let lens = readable.iter().map(|bytes| bytes.len() as u32);
        for (index, len) in lens.chain(writable.iter().copied()).enumerate() {
            let buffer = BUFFERS + 0x4000 * index as u64;
            match readable.get(index) {
                Some(bytes) => self.write(buffer, bytes),
                None => self.write(buffer, &vec![0xee; len.min(0x4000) as usize]),
            }
            let mut flags = 0;
            if index >= readable.len() {
                flags |= descriptor_flag::WRITE;
            }
            if index + 1 < count {
                flags |= descriptor_flag::NEXT;
            }
            let descriptor = descriptor(IOVA + buffer, len, flags, index as u16 + 1);
            self.write_descriptor(queue, index as u16, &descriptor);
        }
        self.offer(queue, 0);
    }

    /// The next used element, if there is one.
    pub(crate) fn completed(&mut self, queue: u16) -> Option<UsedElement> {
        let index = u16::from_le_bytes(self.read(used(queue) + 2, 2).try_into().unwrap());
        let next = &mut self.next_used[usize::from(queue)];
        if *next == index {
            return None;
        }
        let slot = u64::from(*next % QUEUE_SIZE);
        *next = next.wrapping_add(1);
        let bytes = self.read(used(queue) + 4 + 8 * slot, 8);
        Some(UsedElement::read_from_bytes(&bytes).unwrap())
    }

    /// Submits, waits, and returns `used.len` and what each writable descriptor holds.
    pub(crate) fn request(
        &mut self,
        queue: u16,
        readable: &[&[u8]],
        writable: &[u32],
    ) -> (u32, Vec<Vec<u8>>) {
        self.submit(queue, readable, writable);
        let used = loop {
            self.bus.wait();
            if let Some(used) = self.completed(queue) {
                break used;
            }
            assert!(!self.needs_reset(), "the device has broken");
        };
        let buffers = (readable.len()..)
            .zip(writable)
            .map(|(index, &len)| self.read(BUFFERS + 0x4000 * index as u64, len as usize))
            .collect();
        (used.len.get(), buffers)
    }

    pub(crate) fn open_session(&mut self, key: &[u8]) -> (Status, u64) {
        let request = cipher_create(key);
        let (len, buffers) = self.request(CONTROL_QUEUE, &[request.as_bytes(), key], &[16]);
        let reply = SessionReply::read_from_bytes(&buffers[0]).unwrap();
        assert_eq!(len, 16);
        (Status(reply.status.get() as u8), reply.session_id.get())
    }

    pub(crate) fn close_session(&mut self, id: u64) -> Status {
        let mut request = DestroySession::new_zeroed();
        request.header.opcode = control_opcode::CIPHER_DESTROY.into();
        request.session_id = id.into();
        let (len, buffers) = self.request(CONTROL_QUEUE, &[request.as_bytes()], &[1]);
        assert_eq!(len, 1);
        Status(buffers[0][0])
    }

    /// Encrypts, with result and status in descriptors of their own, as Linux has them.
    pub(crate) fn encrypt(&mut self, session: u64, source: &[u8]) -> (Status, Vec<u8>) {
        let request = cipher_data(session, source.len() as u32, source.len() as u32);
        let iv = [0; 16];
        let (len, mut buffers) = self.request(
            DATA_QUEUE,
            &[request.as_bytes(), &iv, source],
            &[source.len() as u32, 1],
        );
        assert_eq!(len as usize, source.len() + 1);
        (Status(buffers[1][0]), buffers.swap_remove(0))
    }
}

fn available(queue: u16) -> u64 {
    u64::from(queue) * RINGS_LEN + descriptor_area_len(QUEUE_SIZE) as u64
}

pub(crate) fn used(queue: u16) -> u64 {
    (available(queue) + available_ring_len(QUEUE_SIZE) as u64).next_multiple_of(4)
}

pub(crate) fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        addr: addr.into(),
        len: len.into(),
        flags: flags.into(),
        next: next.into(),
    }
}

pub(crate) fn cipher_create(key: &[u8]) -> CipherCreate {
    CipherCreate {
        header: ControlHeader {
            opcode: control_opcode::CIPHER_CREATE.into(),
            ..ControlHeader::default()
        },
        algo: cipher::AES_CBC.into(),
        key_len: (key.len() as u32).into(),
        direction: direction::ENCRYPT.into(),
        op_type: symmetric_op_type::CIPHER.into(),
        ..CipherCreate::default()
    }
}

pub(crate) fn cipher_data(session: u64, src_len: u32, dst_len: u32) -> CipherData {
    CipherData {
        header: DataHeader {
            opcode: data_opcode::CIPHER_ENCRYPT.into(),
            session_id: session.into(),
            ..DataHeader::default()
        },
        iv_len: 16.into(),
        src_len: src_len.into(),
        dst_len: dst_len.into(),
        op_type: symmetric_op_type::CIPHER.into(),
        ..CipherData::default()
    }
}

/// An engine whose every cipher adds the key's first byte: easy to check, no cryptography.
#[derive(Debug)]
pub(crate) struct AddEngine;

struct AddSession(u8);

impl Engine for AddEngine {
    fn offer(&self) -> Offer {
        Offer {
            ciphers: 1 << cipher::AES_CBC,
            cipher_key_len_max: 32,
            ..Offer::default()
        }
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        match (spec, key) {
            (SessionSpec::Cipher { .. }, [first, ..]) => Ok(Arc::new(AddSession(*first))),
            (SessionSpec::Cipher { .. }, []) => Err(Status::ERR),
            _ => Err(Status::NOTSUPP),
        }
    }
}

impl Session for AddSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Cipher { source, .. } = operation else {
            return Err(Status::NOTSUPP);
        };
        if source.len() > output.len() {
            return Err(Status::ERR);
        }
        for (to, from) in output.iter_mut().zip(*source) {
            *to = from.wrapping_add(self.0);
        }
        Ok(source.len())
    }
}
