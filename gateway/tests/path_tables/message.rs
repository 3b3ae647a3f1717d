//! ICMP messages and their names.

/// An ICMP message: type and code in either family.
struct Message {
    name: &'static str,
    v4: (u8, u8),
    v6: (u8, u8),
}

const MESSAGES: [Message; 7] = [
    Message { name: "port-unreachable", v4: (3, 3), v6: (1, 4) },
    Message { name: "host-unreachable", v4: (3, 1), v6: (1, 3) },
    Message { name: "prohibited", v4: (3, 13), v6: (1, 1) },
    Message { name: "too-big", v4: (3, 4), v6: (2, 0) },
    Message { name: "time-exceeded", v4: (11, 0), v6: (3, 0) },
    Message { name: "echo", v4: (8, 0), v6: (128, 0) },
    Message { name: "echo-reply", v4: (0, 0), v6: (129, 0) },
];

/// Type and code of a kind: a name, or `icmp=TYPE/CODE`.
pub fn of_kind(kind: &str, v6: bool) -> Result<(u8, u8), String> {
    if let Some(numbers) = kind.strip_prefix("icmp=") {
        let wrong = || format!("{kind} isn't icmp=TYPE/CODE");
        let (kind, code) = numbers.split_once('/').ok_or_else(wrong)?;
        return Ok((kind.parse().map_err(|_| wrong())?, code.parse().map_err(|_| wrong())?));
    }
    let found = MESSAGES.iter().find(|m| m.name == kind).ok_or(format!("there is no {kind}"))?;
    Ok(if v6 { found.v6 } else { found.v4 })
}

/// The kind of a type and code: a name where there is one.
pub fn kind(v6: bool, kind: u8, code: u8) -> String {
    let of = |m: &&Message| (if v6 { m.v6 } else { m.v4 }) == (kind, code);
    MESSAGES.iter().find(of).map_or_else(|| format!("icmp={kind}/{code}"), |m| m.name.to_owned())
}

/// Whether a message of that type quotes a packet.
pub fn quotes(v6: bool, kind: u8) -> bool {
    if v6 { kind < 128 } else { [3, 4, 5, 11, 12].contains(&kind) }
}

/// What the second four bytes say.
pub fn words(v6: bool, kind: u8, code: u8, rest: [u8; 4]) -> Vec<String> {
    let number = u32::from_be_bytes(rest);
    let (high, low) = (number >> 16, number & 0xffff);
    let mut words = vec![format!("rest={number:08x}")];
    match (v6, kind, code) {
        (true, 2, _) => words.push(format!("mtu={number}")),
        (false, 3, 4) => words.push(format!("mtu={low}")),
        (true, 128 | 129, _) | (false, 0 | 8, _) => {
            words.extend([format!("identifier={high}"), format!("sequence={low}")]);
        }
        (true, 4, _) => words.push(format!("pointer={number}")),
        (false, 12, _) => words.push(format!("pointer={}", rest[0])),
        (false, 5, _) => words.push(format!("gateway={}", std::net::Ipv4Addr::from(number))),
        _ => {}
    }
    words
}
