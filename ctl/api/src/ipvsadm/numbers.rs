//! Numbers as the C library reads them.

/// `strtol` base 10: the number and what follows it; `None` for the number when there is no digit,
/// an error when it doesn't fit.
fn strtol(text: &str) -> (Option<Result<i64, ()>>, &str) {
    let spaces = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];
    let start = text.trim_start_matches(spaces);
    let (negative, digits) = match start.strip_prefix(['-', '+']) {
        Some(rest) => (start.starts_with('-'), rest),
        None => (false, start),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return (None, text);
    }
    let sign = if negative { "-" } else { "" };
    (Some(format!("{sign}{}", &digits[..end]).parse().map_err(|_| ())), &digits[end..])
}

/// A number from `min` to `max` that is all of `text`, but for space before it.
#[must_use]
pub(super) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    match strtol(text) {
        (Some(Ok(n)), "") if (min..=max).contains(&n) => Some(n),
        _ => None,
    }
}

/// The number at the beginning of `text`, 0 if there is none.
#[must_use]
pub(super) fn leading_number(text: &str) -> i64 {
    match strtol(text) {
        (Some(Ok(n)), _) => n,
        (Some(Err(())), _) => i64::MAX,
        (None, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_strtol_does() {
        for (text, expected) in [
            ("007", Some(7)),
            (" 12", Some(12)),
            ("+5", Some(5)),
            ("12 ", None),
            ("0x10", None),
            ("1.5", None),
            ("", None),
            ("-1", None),
            ("2147483648", None),
            ("99999999999999999999", None),
            ("- 1", None),
        ] {
            assert_eq!(number(text, 0, i64::from(i32::MAX)), expected, "{text:?}");
        }
        assert_eq!(leading_number("64x"), 64);
        assert_eq!(leading_number("x"), 0);
        assert_eq!(leading_number("-3"), -3);
    }
}
