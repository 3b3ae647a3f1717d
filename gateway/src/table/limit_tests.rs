//! Thresholds at, below and above each limit, and with several threads.

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
};

use super::limit::Limit;

/// Opens sessions until no more are admitted.
fn fill(limit: &Limit) -> u32 {
    (0..1000).take_while(|_| limit.reserve()).count() as u32
}

#[test]
fn the_threshold_and_not_one_more() {
    for upper in [1, 2, 5, 50] {
        let limit = Limit::new(upper, 0, 0);
        assert_eq!(fill(&limit), upper);
        assert!(limit.is_overloaded() && limit.sessions() == upper);
    }
    assert_eq!(fill(&Limit::new(5, 0, 4)), 1);
    assert_eq!(fill(&Limit::new(5, 0, 5)), 0);
    assert_eq!(fill(&Limit::new(5, 0, 6)), 0);
}

#[test]
fn below_the_lower_threshold_or_three_quarters_it_is_open_again() {
    let to_open = |upper, lower| {
        let limit = Limit::new(upper, lower, 0);
        fill(&limit);
        (1..=upper).find(|_| {
            limit.release();
            !limit.is_overloaded()
        })
    };
    // 8 * 3/4 = 6, so 5 is the first count below it.
    assert_eq!((to_open(8, 0), to_open(5, 0), to_open(1, 0)), (Some(3), Some(2), Some(1)));
    assert_eq!((to_open(8, 8), to_open(8, 3), to_open(8, 1)), (Some(1), Some(6), Some(8)));
}

#[test]
fn templates_are_looked_at_and_not_counted() {
    let limit = Limit::new(4, 0, 0);
    limit.look(true);
    assert_eq!((limit.sessions(), fill(&limit)), (0, 4));
    limit.exceed();
    assert_eq!(limit.sessions(), 5, "a template's session goes whatever the threshold");
    limit.look(false);
    assert!(limit.is_overloaded());
}

#[test]
fn edits_take_effect_at_once() {
    let limit = Limit::new(5, 0, 0);
    fill(&limit);
    limit.edit(6, 0);
    assert_eq!(fill(&limit), 1, "raised");
    limit.edit(3, 0);
    assert!(limit.is_overloaded());
    (0..3).for_each(|_| limit.release());
    assert!(limit.is_overloaded(), "3 of 3");
    limit.edit(4, 0);
    assert!(!limit.is_overloaded());
    limit.edit(3, 0);
    assert!(limit.is_overloaded(), "reached already");
    limit.edit(3, 9);
    limit.release();
    assert!(!limit.is_overloaded(), "by the new lower threshold");
}

#[test]
fn workers_join_with_what_they_have() {
    // Control counted 3 + 2; by now one worker has 4 and the other 0.
    let limit = Limit::new(6, 0, 5);
    limit.join(3, 4);
    assert_eq!((limit.sessions(), limit.is_overloaded()), (6, true));
    limit.join(2, 0);
    assert_eq!(limit.sessions(), 4);
    limit.release();
    assert!(!limit.is_overloaded());
}

#[test]
fn threads_never_have_more_than_the_threshold() {
    for (upper, lower) in [(5, 0), (50, 0), (50, 50), (1, 0)] {
        let limit = Limit::new(upper, lower, 0);
        let (open, most) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for thread in 0..4 {
                let (limit, open, most) = (&limit, &open, &most);
                scope.spawn(move || {
                    let mut held = 0;
                    for n in 0..20_000 {
                        if (n + thread) % 3 != 0 && limit.reserve() {
                            held += 1;
                            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                        } else if held > 0 {
                            held -= 1;
                            open.fetch_sub(1, SeqCst);
                            limit.release();
                        }
                    }
                    (0..held).for_each(|_| {
                        open.fetch_sub(1, SeqCst);
                        limit.release();
                    });
                });
            }
        });
        assert!(most.into_inner() <= upper);
        assert_eq!((limit.sessions(), limit.is_overloaded()), (0, false));
    }
}
