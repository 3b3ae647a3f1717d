//! The words of a line: quoted text, layers of a packet, names, running values, attributes.

use std::{
    cell::Cell,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// What `$name` stands for, once it has been seen.
pub type Names = HashMap<String, String>;

/// A line as words. Quoted text stays one word, its escapes resolved into `hex=`; a bar is a word.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = if let Some(quoted) = rest.strip_prefix("data=\"") {
            let (bytes, after) = text(quoted)?;
            (format!("hex={}", hex(&bytes)), after)
        } else if let Some(after) = rest.strip_prefix('|') {
            ("|".into(), after)
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        if word.contains('"') {
            return Err(format!("{word}: only data=\"..\" is quoted"));
        }
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// Text up to its closing quote, and what is behind it.
fn text(quoted: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut rest = quoted;
    loop {
        let open = || format!("data=\"{quoted} has no end");
        let c = rest.chars().next().ok_or_else(open)?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Ok((bytes, rest)),
            '\\' => {
                let escape = rest.chars().next().ok_or_else(open)?;
                rest = &rest[escape.len_utf8()..];
                bytes.push(match escape {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    '0' => 0,
                    '"' | '\\' => escape as u8,
                    'x' => {
                        let digits = rest.get(..2).ok_or_else(open)?;
                        rest = &rest[2..];
                        u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?
                    }
                    _ => return Err(format!("there is no \\{escape}")),
                });
            }
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hex digits as bytes.
pub fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{digits} isn't bytes in hex");
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong());
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The words of each layer.
pub fn layers(words: &[String]) -> Vec<Vec<String>> {
    words.split(|word| word == "|").map(<[String]>::to_vec).collect()
}

/// Layers as one line.
pub fn line(layers: &[Vec<String>]) -> String {
    layers.iter().map(|layer| layer.join(" ")).collect::<Vec<_>>().join(" | ")
}

/// Where the name that begins a text ends.
pub fn name_len(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Puts in what names stand for, `$name+N` and `$name-N` being N more or less, modulo 2^32. Names that are
/// not known stay.
pub fn substitute(word: &str, names: &Names) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        let len = name_len(&rest[at + 1..]);
        let name = &rest[at + 1..at + 1 + len];
        out.push_str(&rest[..at]);
        rest = &rest[at + 1 + len..];
        match names.get(name) {
            None => {
                out.push('$');
                out.push_str(name);
            }
            Some(value) => match (shift(rest), value.parse::<u32>()) {
                (Some((by, after)), Ok(value)) => {
                    out.push_str(&value.wrapping_add(by).to_string());
                    rest = after;
                }
                _ => out.push_str(value),
            },
        }
    }
    out + rest
}

/// `+N` or `-N` at the beginning of a text, and what is behind it.
fn shift(text: &str) -> Option<(u32, &str)> {
    let digits = text.strip_prefix(['+', '-'])?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let by = digits[..end].parse::<u32>().ok()?;
    Some((if text.starts_with('-') { by.wrapping_neg() } else { by }, &digits[end..]))
}

/// The words of repetition `n`: a value with `+` behind it is `n` higher, `$name#` is another name each time.
pub fn running(word: &str, n: u32) -> Result<String, String> {
    if word.starts_with("hex=") {
        return Ok(word.into());
    }
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['+', '#']) {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        if rest[at..].starts_with('#') {
            out.push_str(&format!("{before}_{n}"));
        } else if ends {
            out.push_str(&higher(before, n)?);
        } else {
            out.push_str(&rest[..=at]);
        }
        rest = after;
    }
    Ok(out + rest)
}

/// A word whose last value is `n` higher.
fn higher(word: &str, n: u32) -> Result<String, String> {
    let (head, value) = word.split_at(word.rfind(['[', '=', '>']).map_or(0, |at| at + 1));
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => return Ok(format!("{head}{}", Ipv4Addr::from(u32::from(a).wrapping_add(n)))),
        Ok(IpAddr::V6(a)) => {
            return Ok(format!("{head}{}", Ipv6Addr::from(u128::from(a).wrapping_add(n.into()))));
        }
        Err(_) => {}
    }
    let (head, value) = word.split_at(word.rfind([':', '=']).map_or(0, |at| at + 1));
    let value: u32 = value.parse().map_err(|_| format!("{word}+: {value} isn't a number or an address"))?;
    Ok(format!("{head}{}", value.wrapping_add(n)))
}

/// Whether a word is TCP's flags: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR.
pub fn is_flags(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| "SAFRPUEW".contains(c))
}

/// Attributes of one layer. Each must be of use to whoever builds it: one that isn't is an error.
pub struct Attributes {
    words: Vec<(String, Cell<bool>)>,
}

impl Attributes {
    pub fn new(words: &[String]) -> Self {
        Self { words: words.iter().map(|word| (word.clone(), Cell::new(false))).collect() }
    }

    /// Words that `of` says are meant.
    pub fn all(&self, of: impl Fn(&str) -> bool) -> Vec<&str> {
        let found = self.words.iter().filter(|(word, _)| of(word));
        found.inspect(|(_, used)| used.set(true)).map(|(word, _)| word.as_str()).collect()
    }

    /// The one word that `of` says is meant.
    pub fn one(&self, of: impl Fn(&str) -> bool) -> Result<Option<&str>, String> {
        match *self.all(of) {
            [] => Ok(None),
            [word] => Ok(Some(word)),
            [first, second, ..] => Err(format!("{first} and {second} can't both be")),
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        !self.all(|word| word == name).is_empty()
    }

    /// What stands behind `KEY=`.
    pub fn value(&self, key: &str) -> Result<Option<&str>, String> {
        let of = |word: &str| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('='));
        Ok(self.one(of)?.map(|word| &word[key.len() + 1..]))
    }

    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("{key}={value} isn't a number that fits"))
    }

    pub fn hex(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        self.value(key)?.map(unhex).transpose()
    }

    /// Words that nobody asked for.
    pub fn rest(&self) -> Vec<String> {
        self.words.iter().filter(|(_, used)| !used.get()).map(|(word, _)| word.clone()).collect()
    }
}
