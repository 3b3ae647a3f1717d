//! Translates ICMP errors between the families (RFC 7915, 4.2 and 5.2).
//!
//! These are the tables of codes and pointers; MTUs are left to the caller, which knows the paths.

use super::icmp::{v4, v6};

/// A type and code, and the pointer of a parameter problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// For a parameter problem, the byte of the quoted packet; otherwise 0.
    pub pointer: u8,
}

impl Meaning {
    const fn of(kind: u8, code: u8) -> Self {
        Self { kind, code, pointer: 0 }
    }
}

/// Code of ICMPv6's parameter problem: a field is erroneous.
const FIELD: u8 = 0;
/// Code of ICMPv6's parameter problem: the next header is unknown.
const NEXT_HEADER: u8 = 1;
/// The offset of the next header in the IPv6 header.
const NEXT_HEADER_AT: u8 = 6;

/// The ICMPv6 equivalent of an IPv4 error; none if there is none. The MTU of "packet too big" is left to the caller.
#[must_use]
pub fn v4_to_v6(Meaning { kind, code, pointer }: Meaning) -> Option<Meaning> {
    Some(match (kind, code) {
        (v4::UNREACHABLE, v4::NETWORK | v4::HOST | 5..=8 | 11 | 12) => {
            Meaning::of(v6::UNREACHABLE, v6::NO_ROUTE)
        }
        (v4::UNREACHABLE, v4::PROTOCOL) => {
            Meaning { kind: v6::PARAMETER_PROBLEM, code: NEXT_HEADER, pointer: NEXT_HEADER_AT }
        }
        (v4::UNREACHABLE, v4::PORT) => Meaning::of(v6::UNREACHABLE, v6::PORT),
        (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => Meaning::of(v6::TOO_BIG, 0),
        (v4::UNREACHABLE, 9 | v4::HOST_PROHIBITED | v4::PROHIBITED | 15) => {
            Meaning::of(v6::UNREACHABLE, v6::PROHIBITED)
        }
        (v4::TIME_EXCEEDED, _) => Meaning::of(v6::TIME_EXCEEDED, code),
        (v4::PARAMETER_PROBLEM, 0 | 2) => {
            let pointer = match pointer {
                0 | 1 => pointer,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            Meaning { kind: v6::PARAMETER_PROBLEM, code: FIELD, pointer }
        }
        _ => return None,
    })
}

/// The IPv4 equivalent of an ICMPv6 error; none if there is none. The MTU of "fragmentation needed" is left to the
/// caller. A pointer beyond 255 is passed as 255, which has no equivalent either.
#[must_use]
pub fn v6_to_v4(Meaning { kind, code, pointer }: Meaning) -> Option<Meaning> {
    Some(match (kind, code) {
        (v6::UNREACHABLE, v6::NO_ROUTE | 2 | v6::ADDRESS) => Meaning::of(v4::UNREACHABLE, v4::HOST),
        (v6::UNREACHABLE, v6::PROHIBITED) => Meaning::of(v4::UNREACHABLE, v4::HOST_PROHIBITED),
        (v6::UNREACHABLE, v6::PORT) => Meaning::of(v4::UNREACHABLE, v4::PORT),
        (v6::TOO_BIG, _) => Meaning::of(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED),
        (v6::TIME_EXCEEDED, _) => Meaning::of(v4::TIME_EXCEEDED, code),
        (v6::PARAMETER_PROBLEM, FIELD) => {
            let pointer = match pointer {
                0 | 1 => pointer,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            Meaning { kind: v4::PARAMETER_PROBLEM, code: 0, pointer }
        }
        (v6::PARAMETER_PROBLEM, NEXT_HEADER) => Meaning::of(v4::UNREACHABLE, v4::PROTOCOL),
        _ => return None,
    })
}

/// The packet sizes that networks take (RFC 1191, 7), largest first.
const PLATEAUS: [u16; 11] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// The MTU to assume if a router older than RFC 1191 reports none about a packet of `total_len` bytes.
#[must_use]
pub fn plateau(total_len: usize) -> u16 {
    PLATEAUS.into_iter().find(|&plateau| usize::from(plateau) < total_len).unwrap_or(68)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_v6(kind: u8, code: u8, pointer: u8) -> Option<(u8, u8, u8)> {
        v4_to_v6(Meaning { kind, code, pointer }).map(|m| (m.kind, m.code, m.pointer))
    }

    fn to_v4(kind: u8, code: u8, pointer: u8) -> Option<(u8, u8, u8)> {
        v6_to_v4(Meaning { kind, code, pointer }).map(|m| (m.kind, m.code, m.pointer))
    }

    #[test]
    fn unreachable_by_rfc_7915_4_2() {
        let no_route = Some((1, 0, 0));
        let prohibited = Some((1, 1, 0));
        let expected = [
            no_route,
            no_route,
            Some((4, 1, 6)),
            Some((1, 4, 0)),
            Some((2, 0, 0)),
            no_route,
            no_route,
            no_route,
            no_route,
            prohibited,
            prohibited,
            no_route,
            no_route,
            prohibited,
            None,
            prohibited,
            None,
        ];
        for (code, expected) in expected.into_iter().enumerate() {
            assert_eq!(to_v6(3, code as u8, 0), expected, "3/{code}");
        }
    }

    #[test]
    fn the_rest_by_rfc_7915_4_2() {
        assert_eq!([0, 1].map(|code| to_v6(11, code, 0)), [Some((3, 0, 0)), Some((3, 1, 0))]);
        let pointers: Vec<_> = (0..22).map(|at| to_v6(12, 0, at).map(|m| m.2)).collect();
        let some = |n| Some(n);
        let expected = [
            [some(0), some(1), some(4), some(4), None, None, None, None, some(7), some(6)].as_slice(),
            &[None, None, some(8), some(8), some(8), some(8), some(24), some(24), some(24), some(24)],
            &[None, None],
        ]
        .concat();
        assert_eq!(pointers, expected);
        assert_eq!((to_v6(12, 2, 8), to_v6(12, 1, 8), to_v6(12, 3, 8)), (Some((4, 0, 7)), None, None));
        for other in [(0, 0), (4, 0), (5, 1), (8, 0), (13, 0)] {
            assert_eq!(to_v6(other.0, other.1, 0), None, "{other:?}");
        }
    }

    #[test]
    fn all_by_rfc_7915_5_2() {
        let host = Some((3, 1, 0));
        let codes: Vec<_> = (0..8).map(|code| to_v4(1, code, 0)).collect();
        assert_eq!(codes, [host, Some((3, 10, 0)), host, host, Some((3, 3, 0)), None, None, None]);
        assert_eq!((to_v4(2, 0, 0), to_v4(3, 0, 0)), (Some((3, 4, 0)), Some((11, 0, 0))));
        assert_eq!(to_v4(3, 1, 0), Some((11, 1, 0)));
        for (at, expected) in (0..=40).map(|at| (at, to_v4(4, 0, at))) {
            let pointer = match at {
                0 | 1 => at,
                2 | 3 | 40 => {
                    assert_eq!(expected, None, "{at}");
                    continue;
                }
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                _ => 16,
            };
            assert_eq!(expected, Some((12, 0, pointer)), "{at}");
        }
        assert_eq!((to_v4(4, 1, 40), to_v4(4, 2, 0), to_v4(4, 3, 0)), (Some((3, 2, 0)), None, None));
        assert_eq!((to_v4(128, 0, 0), to_v4(137, 0, 0)), (None, None));
    }

    #[test]
    fn plateaus_are_below_the_packet() {
        assert_eq!(
            [1501, 1500, 1493, 1492, 1006, 69, 68, 20].map(plateau),
            [1492, 1492, 1492, 1006, 508, 68, 68, 68]
        );
        assert_eq!(plateau(70_000), 65535);
    }
}
