//! The common part of the least-connection schedulers.

use super::Server;

/// The available server with the least load in proportion to its weight, or the first of equals. Loads are compared as
/// products (`a / wa > b / wb` is `a * wb > b * wa`), without rounding or overflow.
#[inline]
pub fn weighted(servers: &[Server], load: impl Fn(&Server) -> u64) -> Option<usize> {
    let mut least: Option<(usize, u64, u32)> = None;
    for (i, server) in servers.iter().enumerate() {
        if !server.eligible() {
            continue;
        }
        let load = load(server);
        if least.is_none_or(|(_, lowest, weight)| heavier(lowest, weight, load, server.weight)) {
            least = Some((i, load, server.weight));
        }
    }
    least.map(|(i, ..)| i)
}

/// Whether load `a` at weight `a_weight` is more than load `b` at weight `b_weight`.
#[inline]
pub fn heavier(a: u64, a_weight: u32, b: u64, b_weight: u32) -> bool {
    u128::from(a) * u128::from(b_weight) > u128::from(b) * u128::from(a_weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::servers;

    #[test]
    fn large_numbers_dont_overflow() {
        let list = servers(&[(1, u32::MAX, u32::MAX), (i32::MAX as u32, u32::MAX, 0), (2, u32::MAX, 0)]);
        assert_eq!(weighted(&list, Server::overhead), Some(1));
    }
}
