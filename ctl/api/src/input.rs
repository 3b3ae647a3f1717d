//! Input that may have no end: `/dev/zero`, a pipe that somebody keeps writing to.

use std::io::{self, ErrorKind, Read};

/// Bytes of the longest configuration that is read: rules for some hundred thousand servers.
pub const LONGEST: u64 = 64 << 20;

/// All bytes of `input`.
///
/// # Errors
/// What reading fails with; [`ErrorKind::FileTooLarge`] beyond `longest` bytes.
pub fn read(input: impl Read, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest { Err(too_long(longest)) } else { Ok(bytes) }
}

/// The text of `input`.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] for what isn't UTF-8.
pub fn read_text(input: impl Read, longest: u64) -> io::Result<String> {
    let bytes = read(input, longest)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it isn't UTF-8 text"))
}

/// The error for input of more than `longest` bytes.
#[must_use]
pub fn too_long(longest: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {longest} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_read_up_to_a_limit() {
        assert_eq!(read_text(&b"0123456789"[..], 10).unwrap(), "0123456789");
        let error = read_text(&b"0123456789a"[..], 10).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::FileTooLarge, "it is longer than 10 bytes")
        );
        assert_eq!(read_text(&b"\xff"[..], 10).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(io::repeat(b'#'), 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
