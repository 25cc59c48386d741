//! Watches accelerator cards, and says what is wrong and how it knows.
//!
//! It opens no card: it reads what each card's owner publishes and what the kernel says of that
//! owner, so that watching cannot hang what is watched. It repairs nothing either.
//!
//! ```text
//!   telemetry pages, /proc
//!         |
//!       probe  --observations-->  rules  --findings-->  verdict  --transitions-->  status
//!      (reads,                   (judge,               (decides)                  |      |
//!    never judges)             never read)                                    metrics   api
//! ```

pub mod access;
pub mod api;
pub mod attribution;
pub mod checks;
pub mod client;
pub mod code;
pub mod config;
pub mod control;
pub mod dead_man;
pub mod diagnosis;
pub mod flap;
pub mod history;
pub mod incident;
pub mod leak;
pub mod led;
pub mod live;
pub mod local_health;
pub mod lock;
pub mod metrics;
mod number;
pub mod probe;
pub mod record;
pub mod report;
pub mod rules;
pub mod services;
pub mod status;
pub mod text;
pub mod tune;
pub mod unknown;
pub mod verdict;
pub mod watch;

pub use trend;
