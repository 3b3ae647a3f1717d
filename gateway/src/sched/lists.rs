//! Changes of a server list.
//!
//! New servers are added to the front and the others keep their order, so an old list and its successor can be matched
//! in one walk from the back.

use super::Server;

/// Calls `found` with the (old, new) indices of every server that is in both lists, last one first. A server that was
/// deleted and added again (and so is at the front) counts as another one.
pub fn survivors(old: &[Server], new: &[Server], mut found: impl FnMut(usize, usize)) {
    let mut at = new.len();
    for (i, server) in old.iter().enumerate().rev() {
        if at > 0 && new[at - 1].id == server.id {
            at -= 1;
            found(i, at);
        }
    }
}

/// The position in the new list of a rotation that was at `current` in the old one: the same server, or the nearest
/// remaining one before it; `None` is the head of the list.
pub fn successor(old: &[Server], new: &[Server], current: usize) -> Option<usize> {
    let mut place = None;
    survivors(old, new, |i, j| {
        if i <= current && place.is_none() {
            place = Some(j);
        }
    });
    place
}

/// Whether both lists look the same to a scheduler.
pub fn same(old: &[Server], new: &[Server]) -> bool {
    let seen = |s: &Server| (s.id, s.weight, s.upper);
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| seen(a) == seen(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::server;

    fn list(numbers: &[u32]) -> Vec<Server> {
        numbers.iter().map(|&n| server(n, 1, 0, 0)).collect()
    }

    #[test]
    fn rotation_follows_its_server() {
        // old, current, new -> successor
        let table = [
            (&[3, 2, 1][..], 1, &[3, 2, 1][..], Some(1)),
            (&[3, 2, 1], 1, &[4, 3, 2, 1], Some(2)),
            (&[3, 2, 1], 1, &[3, 1], Some(0)),
            (&[3, 2, 1], 0, &[2, 1], None),
            (&[3, 2, 1], 0, &[4, 2, 1], None),
            (&[3, 2, 1], 2, &[3], Some(0)),
            (&[3, 2, 1], 2, &[], None),
            (&[3, 2, 1], 1, &[2, 3, 1], Some(1)),
        ];
        for (old, current, new, expected) in table {
            assert_eq!(successor(&list(old), &list(new), current), expected, "{old:?} {current} {new:?}");
        }
    }

    #[test]
    fn sameness_is_of_what_counts() {
        assert!(same(&list(&[2, 1]), &list(&[2, 1])));
        assert!(!same(&list(&[2, 1]), &list(&[1, 2])));
        assert!(!same(&list(&[2, 1]), &list(&[2])));
        assert!(!same(&list(&[2]), &[server(2, 9, 0, 0)]));
    }
}
