//! Frames: a little-endian 32-bit length, then that many bytes of bincode 2.

use std::io::{self, Read, Write};

use bincode::{Decode, Encode, config};

use super::MAX_FRAME;

/// Why a frame couldn't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the stream between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// Reading or writing failed, or the peer closed the stream within a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The length is above [`MAX_FRAME`].
    #[error("frame of {0} bytes, at most {MAX_FRAME}")]
    TooLong(usize),
    /// The body isn't the message that was expected.
    #[error("malformed frame: {0}")]
    Malformed(String),
}

fn configuration() -> config::Configuration<config::LittleEndian, config::Varint, config::Limit<MAX_FRAME>> {
    config::standard().with_limit::<MAX_FRAME>()
}

/// The frame that carries `message`, length included.
///
/// # Errors
/// [`FrameError::TooLong`]; the message is beyond the limits of the protocol.
pub fn encode<M: Encode>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    bincode::encode_into_std_write(message, &mut frame, configuration())
        .map_err(|e| FrameError::Malformed(e.to_string()))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// The message in the frame body `body`, which it must fill.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode<M: Decode<()>>(body: &[u8]) -> Result<M, FrameError> {
    let (message, used) = bincode::decode_from_slice(body, configuration())
        .map_err(|e| FrameError::Malformed(e.to_string()))?;
    if used != body.len() {
        return Err(FrameError::Malformed(format!("{} bytes after the message", body.len() - used)));
    }
    Ok(message)
}

/// Reads one frame body.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream, [`FrameError::TooLong`] before anything is allocated.
pub fn read(stream: &mut impl Read) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 4];
    read_first(stream, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    // Grows with what really arrives: a length alone costs nothing.
    let mut body = Vec::with_capacity(length.min(4096));
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(body)
}

fn read_first(stream: &mut impl Read, length: &mut [u8; 4]) -> Result<(), FrameError> {
    let mut have = 0;
    while have < length.len() {
        match stream.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Reads one frame and decodes it.
///
/// # Errors
/// As [`read`] and [`decode`].
pub fn receive<M: Decode<()>>(stream: &mut impl Read) -> Result<M, FrameError> {
    decode(&read(stream)?)
}

/// Writes a frame around `body`, which is encoded already.
///
/// # Errors
/// What writing fails with.
pub fn send_body(stream: &mut impl Write, body: &[u8]) -> Result<(), FrameError> {
    stream.write_all(&[&(body.len() as u32).to_le_bytes(), body].concat())?;
    Ok(stream.flush()?)
}

/// Encodes `message` and writes the frame.
///
/// # Errors
/// As [`encode`], and what writing fails with.
pub fn send<M: Encode>(stream: &mut impl Write, message: &M) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Batch, Change, Request};

    #[test]
    fn a_frame_comes_back() {
        let request = Request::Apply(Batch { changes: vec![Change::Flush], expect_generation: Some(7) });
        let frame = encode(&request).unwrap();
        assert_eq!(receive::<Request>(&mut &frame[..]).unwrap(), request);
    }

    #[test]
    fn a_giant_length_is_refused_before_it_is_read() {
        let mut stream = &[0xff, 0xff, 0xff, 0x7f, 0][..];
        assert!(matches!(read(&mut stream), Err(FrameError::TooLong(0x7fff_ffff))));
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_an_empty_stream_the_end() {
        let frame = encode(&Request::Info).unwrap();
        for cut in 1..frame.len() {
            assert!(matches!(read(&mut &frame[..cut]), Err(FrameError::Io(_))), "cut at {cut}");
        }
        assert!(matches!(read(&mut &[][..]), Err(FrameError::Closed)));
    }

    #[test]
    fn a_giant_vector_length_inside_is_refused() {
        // Apply, then a vector length of 2^63 as a varint.
        let mut body = vec![1, 253];
        body.extend_from_slice(&(1u64 << 63).to_le_bytes());
        assert!(matches!(decode::<Request>(&body), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        assert!(matches!(decode::<Request>(&[0, 0]), Err(FrameError::Malformed(_))));
    }
}
