//! Rates and counters, and the traffic behind them.

use std::net::{IpAddr, Ipv4Addr};

use weir::clock::TICKS_PER_SECOND;

use super::{Replay, carried::same, flows::Conn, shell};

/// So many connections a second for a while, each of a SYN, a SYN-ACK, an ACK and a segment of 60 bytes.
pub struct Traffic {
    a_second: f64,
    seconds: f64,
    opened: u32,
}

impl Traffic {
    /// From a recording's description.
    pub fn of(desc: &str) -> Option<Self> {
        let words: Vec<&str> = desc.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "connections/s")?;
        let a_second = words.get(at.checked_sub(1)?)?.parse().ok()?;
        let mut after = words.iter().skip(at).skip_while(|w| **w != "for");
        Some(Self { a_second, seconds: after.nth(1)?.parse().ok()?, opened: 0 })
    }
}

impl Replay<'_> {
    /// Moves on to `t` seconds after the start, opening the connections of the background traffic on time.
    fn traffic_until(&mut self, t: f64) -> Result<(), String> {
        while let Some(traffic) = &mut self.traffic {
            let at = f64::from(traffic.opened) / traffic.a_second;
            if at > t || at >= traffic.seconds {
                break;
            }
            traffic.opened += 1;
            let n = traffic.opened;
            self.advance_to(at);
            let client = (IpAddr::from(Ipv4Addr::from(0x0a01_0800 + n)), 20000);
            let Some(vip) = self.configured_vip(false) else { return Ok(()) };
            let id = format!("traffic {n}");
            let client = self.aliases.of(6, client);
            self.conns.insert(id.clone(), Conn::new(6, client, vip));
            for (dir, flags, payload) in
                [("c2s", "S", 0), ("s2c", "SA", 0), ("c2s", "A", 0), ("c2s", "PA", 60)]
            {
                self.packet(&id, dir, flags, payload)?;
            }
        }
        self.advance_to(t);
        Ok(())
    }

    fn advance_to(&mut self, t: f64) {
        let now = f64::from(self.rig.now().0) / f64::from(TICKS_PER_SECOND);
        if self.start + t > now {
            self.rig.advance(self.start + t - now);
        }
    }

    /// Listed rates or counters at a moment of the scenario, or now. A recording may have asked for exact ones or not.
    pub(super) fn counters(&mut self, t: Option<f64>, what: &str, recorded: &[String]) -> Result<(), String> {
        if let Some(t) = t {
            self.traffic_until(t)?;
        }
        let mut exact = Vec::new();
        for exactly in ["", " --exact"] {
            let command = format!("ipvsadm -Ln {what}{exactly}");
            let (_, stdout, _) = shell::run(&mut self.rig, &command, &mut self.nft)?;
            exact = stdout.lines().skip(3).map(str::to_owned).collect();
            if exact == recorded {
                return Ok(());
            }
        }
        same(what, &exact, &recorded.to_vec())
    }
}
