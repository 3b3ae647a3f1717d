//! What stands behind the question mark of a request.

/// Most parameters of a request.
const MAX_PARAMETERS: usize = 16;

/// `a=1&b=2` as names and values, decoded.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn parse(query: &str) -> Result<Vec<(String, String)>, String> {
    let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    if parts.len() > MAX_PARAMETERS {
        return Err(format!("more than {MAX_PARAMETERS} parameters"));
    }
    let both = |part: &&str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Ok((decode(name)?, decode(value)?))
    };
    parts.iter().map(both).collect()
}

fn decode(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}' isn't encoded as a URL's parameter");
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(wrong);
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Ok(text),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let parsed = parse("service=tcp%2F192.0.2.10%3a80&a+b=%e2%82%ac&limit").unwrap();
        let expected = [("service", "tcp/192.0.2.10:80"), ("a b", "\u{20ac}"), ("limit", "")];
        assert_eq!(parsed, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(parse(""), Ok(vec![]));
        for wrong in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%00", "a=%0a", &"a&".repeat(17)] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
