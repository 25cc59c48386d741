//! Values of parameters, from text and back.
//!
//! What a parameter means is not known here.

use super::HangEnd;
use super::led::is_morse;
use card_spec::crypto::Status;
use std::time::Duration;

/// Something that a parameter can be.
pub(super) trait Value {
    /// Takes the value that `text` says, or says what it could be.
    fn read(&mut self, text: &str) -> Result<(), &'static str>;

    /// As [`Value::read`] reads it.
    fn show(&self) -> String;
}

/// Takes what was read, if anything was.
fn store<T>(place: &mut T, read: Option<T>, expected: &'static str) -> Result<(), &'static str> {
    *place = read.ok_or(expected)?;
    Ok(())
}

impl Value for u8 {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        store(self, text.parse().ok(), "a number up to 255")
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u16 {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        store(self, text.parse().ok(), "a number up to 65535")
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let number = text.parse().ok().filter(|number| *number > 0);
        store(self, number, "a number from 1 to 4294967295")
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for f64 {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        const MAX: f64 = 1e6;
        let number = text
            .parse()
            .ok()
            .filter(|number| (1e-3..=MAX).contains(number));
        store(self, number, "a number from 0.001 to 1000000")
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let duration = humantime::parse_duration(text).ok();
        let duration = duration.filter(|duration| !duration.is_zero());
        store(self, duration, "a duration such as 250ms or 3s")
    }

    fn show(&self) -> String {
        humantime::format_duration(*self)
            .to_string()
            .replace(' ', "")
    }
}

impl Value for HangEnd {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let end = match text {
            "cleared" => Some(Self::Cleared),
            "reset" => Some(Self::Reset),
            _ => None,
        };
        store(self, end, "cleared or reset")
    }

    fn show(&self) -> String {
        match self {
            Self::Cleared => "cleared",
            Self::Reset => "reset",
        }
        .to_owned()
    }
}

impl Value for Status {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let named = (0..u8::MAX).map(Self).find(|status| {
            let name = status
                .name()
                .map(|name| name.to_lowercase().replace('_', "-"));
            name.as_deref() == Some(text)
        });
        let status = named.or_else(|| text.parse().ok().map(Self));
        let failed = status.filter(|status| *status != Self::OK);
        let expected = "err, badmsg, notsupp, invsess, nospc, key-rejected, or a number up to 255 \
                        that is not 0";
        store(self, failed, expected)
    }

    fn show(&self) -> String {
        let name = self
            .name()
            .map(|name| name.to_lowercase().replace('_', "-"));
        name.unwrap_or_else(|| self.0.to_string())
    }
}

/// Letters and digits, for a light to say.
impl Value for String {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let code = Some(text.to_uppercase()).filter(|code| is_morse(code));
        store(self, code, "one to eight letters and digits")
    }

    fn show(&self) -> String {
        self.clone()
    }
}
