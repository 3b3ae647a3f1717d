//! The Call-ID of a SIP message (RFC 3261, 8.1.1.4 and 20.8), for `--pe sip`.
//!
//! Nothing else of the message is looked at. As in Linux lines may end with CR or LF alone, and a Call-ID
//! that isn't followed by a line's end is none: the message is cut.

/// The Call-ID: `word` or `word@word`. None if the message has none, or one that can't be read.
#[must_use]
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut lines = message.split_inclusive(|&b| matches!(b, b'\r' | b'\n'));
    // The first line is the request's or the status.
    lines.next()?;
    let value = lines.find_map(header)?;
    let first = word(value);
    let len = match value.get(first) {
        Some(b'@') if first != 0 => match word(&value[first + 1..]) {
            0 => return None,
            second => first + 1 + second,
        },
        _ => first,
    };
    let ended = matches!(value.get(len), Some(b'\r' | b'\n'));
    (len != 0 && ended).then(|| &value[..len])
}

/// What follows `Call-ID:` or its compact form `i:`, if the line is such a one.
fn header(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|&b| b == b':')?;
    let name = line[..colon].trim_ascii_end();
    let is_it = name.eq_ignore_ascii_case(b"call-id") || name.eq_ignore_ascii_case(b"i");
    let value = &line[colon + 1..];
    let blanks = value.iter().take_while(|&&b| matches!(b, b' ' | b'\t')).count();
    is_it.then(|| &value[blanks..])
}

/// Length of the `word` (RFC 3261, 25.1) that `text` begins with.
fn word(text: &[u8]) -> usize {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(b);
    text.iter().take_while(|b| is_word(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ids_and_what_is_none() {
        let of = |text: &'static str| {
            call_id(text.as_bytes()).map(|id| std::str::from_utf8(id).expect("text of a test"))
        };
        let start = "INVITE sip:b@host SIP/2.0";
        assert_eq!(
            of("INVITE sip:b SIP/2.0\r\nVia: x\r\nCall-ID: a84b4c76e66710@pc33\r\nTo: b\r\n"),
            Some("a84b4c76e66710@pc33")
        );
        assert_eq!(of("OPTIONS x\ncall-id :\t 7(%)x \n"), None, "a blank ends no line");
        assert_eq!(of("OPTIONS x\ncall-id :\t 7(%)x\n"), Some("7(%)x"));
        assert_eq!(of("BYE x\ri: 1@2\r"), Some("1@2"));
        assert_eq!(of("Call-ID: 1@2\r\n"), None, "that's the first line");
        assert_eq!(of("BYE x\r\nCall-ID: 1@2"), None, "cut");
        assert_eq!(of("BYE x\r\nCall-ID: 1@\r\n"), None);
        assert_eq!(of("BYE x\r\nCall-ID: @1\r\n"), None);
        assert_eq!(of("BYE x\r\nCall-ID:\r\n"), None);
        assert_eq!(of("BYE x\r\nCall-Info: 1\r\nint: 5\r\n"), None);
        assert_eq!(of(""), None);
        assert_eq!(call_id(start.as_bytes()), None);
    }

    proptest::proptest! {
        #[test]
        fn no_message_is_too_strange(message: Vec<u8>) {
            let _ = call_id(&message);
        }
    }
}
