//! The methods and families that benchmarks know, and how weir is configured for each.

use std::net::{IpAddr, Ipv4Addr};

use clap::ValueEnum;
use weir_api::model::{Forwarding, Tunnel, TunnelChecksum, TunnelKind};

use crate::traffic::six;

/// How packets get to the servers, and over what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// FULLNAT, IPv4
    #[default]
    Fullnat,
    /// FULLNAT, IPv6
    FullnatV6,
    /// FULLNAT, IPv6 clients of IPv4 servers
    FullnatV6ToV4,
    /// FULLNAT, IPv4 clients of IPv6 servers
    FullnatV4ToV6,
    /// NAT, IPv4
    Nat,
    /// NAT, IPv6
    NatV6,
    /// Direct routing, IPv4
    Dr,
    /// Direct routing, IPv6
    DrV6,
    /// IPIP tunnels, IPv4
    Ipip,
    /// IPv6 in IPv6
    IpipV6,
    /// IPv6 in IPv4
    SixInFour,
    /// IPv4 in IPv6
    FourInSix,
    /// GRE tunnels, IPv4
    Gre,
    /// GUE tunnels, IPv4
    Gue,
}

impl Method {
    /// Its name on the command line and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether clients use IPv6.
    pub fn v6(self) -> bool {
        matches!(
            self,
            Self::FullnatV6 | Self::FullnatV6ToV4 | Self::NatV6 | Self::DrV6 | Self::IpipV6 | Self::SixInFour
        )
    }

    /// Whether servers do.
    pub fn v6_servers(self) -> bool {
        match self {
            Self::FullnatV6ToV4 | Self::SixInFour => false,
            Self::FullnatV4ToV6 | Self::FourInSix => true,
            other => other.v6(),
        }
    }

    /// As the model has it.
    pub fn forwarding(self) -> Forwarding {
        let tunnel = |kind, port| Forwarding::Tunnel(Tunnel { kind, port, checksum: TunnelChecksum::None });
        match self {
            Self::Fullnat | Self::FullnatV6 | Self::FullnatV6ToV4 | Self::FullnatV4ToV6 => {
                Forwarding::FullNat
            }
            Self::Nat | Self::NatV6 => Forwarding::Nat,
            Self::Dr | Self::DrV6 => Forwarding::Route,
            Self::Ipip | Self::IpipV6 | Self::SixInFour | Self::FourInSix => tunnel(TunnelKind::Ipip, 0),
            Self::Gre => tunnel(TunnelKind::Gre, 0),
            Self::Gue => tunnel(TunnelKind::Gue, 6080),
        }
    }

    /// As weirctl takes it behind a server.
    pub fn options(self) -> &'static str {
        match self {
            Self::Fullnat | Self::FullnatV6 | Self::FullnatV6ToV4 | Self::FullnatV4ToV6 => "--fullnat",
            Self::Nat | Self::NatV6 => "-m",
            Self::Dr | Self::DrV6 => "-g",
            Self::Ipip | Self::IpipV6 | Self::SixInFour | Self::FourInSix => "-i",
            Self::Gre => "-i --tun-type gre",
            Self::Gue => "-i --tun-type gue --tun-port 6080",
        }
    }

    /// An address of the clients' side, given as IPv4's.
    pub fn client_side(self, v4: Ipv4Addr) -> IpAddr {
        if self.v6() { six(v4).into() } else { v4.into() }
    }

    /// An address of the servers' side, given as IPv4's.
    pub fn server_side(self, v4: Ipv4Addr) -> IpAddr {
        if self.v6_servers() { six(v4).into() } else { v4.into() }
    }
}
