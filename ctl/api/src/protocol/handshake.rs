//! The handshake. Its bytes never change, so that any two versions can tell each other who they are.
//!
//! ```text
//!  hello     "WEIR"  oldest:u16  newest:u16                      little-endian, 8 bytes
//!  answer    "WEIR"  status:u8  a:u16  b:u16  text (UTF-8)
//!            status 0  accepted: a = version to speak, b = 1 if the peer may change things; text = gateway version
//!            status 1  no common version: a..=b = what the gateway speaks
//!            status 2  busy: too many connections
//! ```
//! Both travel as ordinary frames.

use super::{Access, OLDEST_VERSION, VERSION};

const MAGIC: &[u8; 4] = b"WEIR";

/// Longest text in an answer, in bytes.
const MAX_TEXT: usize = 256;

/// What a client opens with: the versions that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version.
    pub oldest: u16,
    /// Newest version.
    pub newest: u16,
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloAnswer {
    /// Go on in this version.
    Accepted {
        /// Protocol version to speak.
        version: u16,
        /// What the peer may do.
        access: Access,
        /// The gateway's own version.
        gateway: String,
    },
    /// No version is common to both.
    NoCommonVersion {
        /// Oldest version that the gateway speaks.
        oldest: u16,
        /// Newest version that the gateway speaks.
        newest: u16,
    },
    /// Too many connections.
    Busy,
}

/// The peer doesn't speak this protocol at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer doesn't speak weir's control protocol")]
pub struct NotWeir;

impl Hello {
    /// What this library speaks.
    pub const OURS: Self = Self { oldest: OLDEST_VERSION, newest: VERSION };

    /// Frame body.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.oldest.to_le_bytes(), &self.newest.to_le_bytes()].concat()
    }

    /// From a frame body; what follows the known bytes is left to later versions.
    ///
    /// # Errors
    /// [`NotWeir`].
    pub fn from_bytes(body: &[u8]) -> Result<Self, NotWeir> {
        let rest = body.strip_prefix(MAGIC).ok_or(NotWeir)?;
        let (oldest, rest) = u16_from(rest)?;
        let (newest, _) = u16_from(rest)?;
        Ok(Self { oldest, newest })
    }

    /// The newest version common to both, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl HelloAnswer {
    /// Frame body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (status, a, b, text) = match self {
            Self::Accepted { version, access, gateway } => {
                (0, *version, u16::from(*access == Access::ReadWrite), gateway.as_str())
            }
            Self::NoCommonVersion { oldest, newest } => (1, *oldest, *newest, ""),
            Self::Busy => (2, 0, 0, ""),
        };
        let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
        [MAGIC.as_slice(), &[status], &a.to_le_bytes(), &b.to_le_bytes(), text].concat()
    }

    /// From a frame body.
    ///
    /// # Errors
    /// [`NotWeir`].
    pub fn from_bytes(body: &[u8]) -> Result<Self, NotWeir> {
        let rest = body.strip_prefix(MAGIC).ok_or(NotWeir)?;
        let (&status, rest) = rest.split_first().ok_or(NotWeir)?;
        let (a, rest) = u16_from(rest)?;
        let (b, text) = u16_from(rest)?;
        match status {
            0 => Ok(Self::Accepted {
                version: a,
                access: if b == 1 { Access::ReadWrite } else { Access::ReadOnly },
                gateway: String::from_utf8_lossy(text).into_owned(),
            }),
            1 => Ok(Self::NoCommonVersion { oldest: a, newest: b }),
            2 => Ok(Self::Busy),
            _ => Err(NotWeir),
        }
    }
}

fn u16_from(bytes: &[u8]) -> Result<(u16, &[u8]), NotWeir> {
    let (number, rest) = bytes.split_first_chunk().ok_or(NotWeir)?;
    Ok((u16::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_never_change() {
        assert_eq!(Hello { oldest: 1, newest: 0x102 }.to_bytes(), b"WEIR\x01\x00\x02\x01");
        let answers = [
            (
                HelloAnswer::Accepted { version: 1, access: Access::ReadWrite, gateway: "0.1".into() },
                &b"WEIR\x00\x01\x00\x01\x000.1"[..],
            ),
            (HelloAnswer::NoCommonVersion { oldest: 2, newest: 3 }, b"WEIR\x01\x02\x00\x03\x00"),
            (HelloAnswer::Busy, b"WEIR\x02\x00\x00\x00\x00"),
        ];
        for (answer, bytes) in answers {
            assert_eq!(answer.to_bytes(), bytes);
            assert_eq!(HelloAnswer::from_bytes(bytes), Ok(answer));
        }
    }

    #[test]
    fn a_later_hello_may_be_longer() {
        assert_eq!(Hello::from_bytes(b"WEIR\x01\x00\x09\x00more"), Ok(Hello { oldest: 1, newest: 9 }));
        assert_eq!(Hello::from_bytes(b"GET / HTTP/1.1"), Err(NotWeir));
        assert_eq!(Hello::from_bytes(b"WEIR\x01"), Err(NotWeir));
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let gateway = Hello { oldest: 2, newest: 4 };
        assert_eq!(gateway.common(Hello { oldest: 1, newest: 3 }), Some(3));
        assert_eq!(gateway.common(Hello { oldest: 4, newest: 9 }), Some(4));
        assert_eq!(gateway.common(Hello { oldest: 1, newest: 1 }), None);
        assert_eq!(gateway.common(Hello { oldest: 5, newest: 6 }), None);
    }
}
