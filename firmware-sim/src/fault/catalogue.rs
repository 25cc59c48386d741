//! The list of all faults.
//!
//! Names are the field's words. The cause is what a monitor should name, and the observable instant
//! the earliest at which it can.

use super::{Cause, Entry, Group, Observable, Parameter, Player, Truth};
use crate::service::fault as stand_in;

/// Every fault there is, those of a card first.
pub const CATALOGUE: &[Entry] = &[
    Entry {
        name: "hang",
        group: Group::Card,
        summary: "the firmware stops: no beat, no answer; registers still read",
        parameters: &[Parameter {
            name: "until",
            summary: "what ends it besides its duration: cleared, or reset",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextHeartbeat,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "slow",
        group: Group::Card,
        summary: "every answer takes longer than a good card takes",
        parameters: &[Parameter {
            name: "factor",
            summary: "how many times the nominal duration",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "flipped-bit",
        group: Group::Card,
        summary: "a bit of the result is wrong; a verification says the opposite",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "crt-fault",
        group: Group::Card,
        summary: "an RSA signature is right modulo p and wrong modulo q, which gives the key away",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "wrong-message",
        group: Group::Card,
        summary: "the result is right, but of another message",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "repeated-nonce",
        group: Group::Card,
        summary: "ECDSA signatures of a session are valid and share one nonce, which gives the key away",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "short-result",
        group: Group::Card,
        summary: "the result lacks its last bytes",
        parameters: &[Parameter {
            name: "bytes",
            summary: "how many bytes are missing",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "overlong-result",
        group: Group::Card,
        summary: "the used element claims more than was written",
        parameters: &[Parameter {
            name: "bytes",
            summary: "how many bytes more",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "duplicate-completion",
        group: Group::Card,
        summary: "an answer is given again",
        parameters: &[Parameter {
            name: "copies",
            summary: "how many times more",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "late-completion",
        group: Group::Card,
        summary: "an answer comes late, perhaps after its deadline",
        parameters: &[Parameter {
            name: "delay",
            summary: "how late",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "reordered-completion",
        group: Group::Card,
        summary: "an answer comes after those behind it, which virtio allows",
        parameters: &[],
        truth: Truth {
            cause: Cause::None,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "dropped-completion",
        group: Group::Card,
        summary: "an answer never comes",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "unknown-completion",
        group: Group::Card,
        summary: "the used element names a request that nobody made",
        parameters: &[Parameter {
            name: "head",
            summary: "which descriptor it names",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "dma-garbage",
        group: Group::Card,
        summary: "ten times a second, random bytes somewhere into memory the card may write",
        parameters: &[Parameter {
            name: "bytes",
            summary: "how many bytes",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "heartbeat-stops",
        group: Group::Card,
        summary: "the heartbeat stops while work goes on",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextHeartbeat,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "work-stops",
        group: Group::Card,
        summary: "the heartbeat goes on while work stops",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "silent-reboot",
        group: Group::Card,
        summary: "the firmware restarts: sessions and queues are gone, and nobody was told",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "reset-loop",
        group: Group::Card,
        summary: "the firmware restarts again and again",
        parameters: &[Parameter {
            name: "period",
            summary: "time between two restarts",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "reset-hangs",
        group: Group::Card,
        summary: "a reset does not end: device status never reads 0",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextReset,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "sessions-exhausted",
        group: Group::Card,
        summary: "no session can be opened any more: NOSPC",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextSession,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "keys-lost",
        group: Group::Card,
        summary: "all sessions are forgotten, and with them the keys: INVSESS",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "over-temperature",
        group: Group::Card,
        summary: "it gets hot, warns, and slows itself down",
        parameters: &[
            Parameter {
                name: "celsius",
                summary: "how hot it gets, in degrees Celsius",
            },
            Parameter {
                name: "rate",
                summary: "how fast, in degrees per second",
            },
        ],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextHeartbeat,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "self-test-failure",
        group: Group::Card,
        summary: "the self-test has failed: a fatal error is reported and private keys are refused",
        parameters: &[Parameter {
            name: "test",
            summary: "which test",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "rng-stuck",
        group: Group::Card,
        summary: "the random numbers are always the same: ECDSA nonces, padding of encryption",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "error-status",
        group: Group::Card,
        summary: "requests are answered with an error",
        parameters: &[Parameter {
            name: "status",
            summary: "which status, by name or number",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "maintenance",
        group: Group::Card,
        summary: "an operator has it in maintenance: it takes no work, and says so, as does its light",
        parameters: &[],
        truth: Truth {
            cause: Cause::None,
            observable: Observable::NextRequest,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "surprise-removal",
        group: Group::Link,
        summary: "the card leaves its slot, and starts anew if it comes back",
        parameters: &[],
        truth: Truth {
            cause: Cause::CardAbsent,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "all-ones",
        group: Group::Link,
        summary: "nothing gets through: reads give all-ones, writes and answers are lost",
        parameters: &[],
        truth: Truth {
            cause: Cause::Link,
            observable: Observable::NextRead,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "downtrained",
        group: Group::Link,
        summary: "the link has come up narrower and slower than card and slot can",
        parameters: &[
            Parameter {
                name: "width",
                summary: "lanes",
            },
            Parameter {
                name: "speed",
                summary: "1 is 2.5 GT/s, 2 is 5, 3 is 8, 4 is 16",
            },
        ],
        truth: Truth {
            cause: Cause::Link,
            observable: Observable::NextRead,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "correctable-storm",
        group: Group::Link,
        summary: "the link corrects errors again and again (AER)",
        parameters: &[Parameter {
            name: "rate",
            summary: "errors per second",
        }],
        truth: Truth {
            cause: Cause::Link,
            observable: Observable::NextRead,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "lost-interrupt",
        group: Group::Link,
        summary: "interrupts do not arrive; answers are there for whoever looks",
        parameters: &[],
        truth: Truth {
            cause: Cause::Link,
            observable: Observable::NextInterrupt,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "interrupt-storm",
        group: Group::Link,
        summary: "interrupts arrive that nothing has caused",
        parameters: &[
            Parameter {
                name: "rate",
                summary: "interrupts per second",
            },
            Parameter {
                name: "vector",
                summary: "which vector",
            },
        ],
        truth: Truth {
            cause: Cause::Link,
            observable: Observable::AtOnce,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-irregular",
        group: Group::Led,
        summary: "the light blinks at random",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-stuck-on",
        group: Group::Led,
        summary: "the light stays on",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-stuck-off",
        group: Group::Led,
        summary: "the light stays off",
        parameters: &[],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-sos",
        group: Group::Led,
        summary: "the light says SOS in Morse code, and an error code",
        parameters: &[Parameter {
            name: "code",
            summary: "letters and digits after SOS",
        }],
        truth: Truth {
            cause: Cause::Card,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-maintenance",
        group: Group::Led,
        summary: "the light says maintenance: two long pulses",
        parameters: &[],
        truth: Truth {
            cause: Cause::None,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    Entry {
        name: "led-initialization",
        group: Group::Led,
        summary: "the light says initialization: two short pulses",
        parameters: &[],
        truth: Truth {
            cause: Cause::None,
            observable: Observable::NextEdge,
        },
        played_by: Player::Card,
    },
    // What the stand-in does is described where it is done.
    stand_in::CRASH,
    stand_in::HANG_AFTER_ACCEPT,
    stand_in::REFUSE,
    stand_in::ACCEPT_STALL,
    stand_in::LEAK_HEAP,
    stand_in::LEAK_KERNEL,
    stand_in::LEAK_DESCRIPTORS,
    stand_in::LEAK_THREADS,
    stand_in::LEAK_PORTS_ON_FAILURE,
    stand_in::LEAK_WHILE_ABSENT,
    stand_in::WORKERS_EXHAUSTED,
    stand_in::WRONG_ANSWER,
    stand_in::DELAYED_RECYCLE,
    stand_in::LEDGER_LIES,
    Entry {
        name: "cpu-starvation",
        group: Group::Host,
        summary: "no CPU time is left for those who watch and work",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "softirq-storm",
        group: Group::Host,
        summary: "interrupt handling takes a CPU for itself",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "steal",
        group: Group::Host,
        summary: "the hypervisor takes CPU time away, or pauses the machine",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "memory-pressure",
        group: Group::Host,
        summary: "memory is short, and allocation waits",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "slow-fsync",
        group: Group::Host,
        summary: "a disk takes seconds to make a write durable",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::NextRequest,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "clock-step",
        group: Group::Host,
        summary: "the wall clock jumps",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "monitor-stopped",
        group: Group::Host,
        summary: "the monitor is stopped by a signal and goes on later",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
    Entry {
        name: "descriptors-exhausted",
        group: Group::Host,
        summary: "the monitor can open no file any more",
        parameters: &[],
        truth: Truth {
            cause: Cause::Host,
            observable: Observable::AtOnce,
        },
        played_by: Player::Simulation,
    },
];
