//! `weirctl`'s own commands on a real configuration store: in this process over a store or over workers
//! in virtual time, and as a process of its own on a real socket and terminal.
//!
//! This same executable is `weirctl` when it is called so.

#[path = "../fake/mod.rs"]
mod fake;
#[path = "../rig/mod.rs"]
mod rig;

mod documents;
mod draining;
mod man;
mod masquerade;
mod process;
mod questions;
mod rules;
mod screen;
mod service;
mod world;

use std::{ffi::OsString, path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Tests by their names.
macro_rules! trials {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        vec![$($(Trial::test(concat!(stringify!($module), "::", stringify!($test)), || {
            $module::$test();
            Ok(())
        }),)*)*]
    };
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if Path::new(&args[0]).file_name().is_some_and(|name| name == "weirctl") {
        return weirctl::program::main(args);
    }
    let trials = trials! {
        rules::{
            an_endless_configuration_is_refused, an_export_applied_elsewhere_gives_the_same, any_export_applied_elsewhere_gives_the_same,
            a_difference_is_read_by_people, apply_is_all_or_nothing_and_says_where, generations_guard,
            what_stays_is_not_touched, mark_rules_come_go_and_keep_their_order, large_files_are_one_transaction,
            rules_are_saved_whole,
        }
        questions::{
            sessions_are_listed_counted_and_ended, a_worker_that_does_not_answer_is_named, local_addresses_come_go_and_show_their_use, snat_rules_come_go_and_count,
            snat_rules_of_a_file_keep_their_sessions, status_tells_all, ready_is_who_polls, doctor_tells_what_why_and_what_mends_it, stats_tell_why, explain_tells_every_stage,
            a_trace_is_shown_and_saved_for_tshark,
            mistakes_have_their_status, a_watch_follows_the_news,
        }
        masquerade::{
            what_masquerading_means_is_set_and_listed, default_local_addresses_are_listed_where_they_are_used,
            applied_rules_masquerade_as_loaded_ones,
        }
        draining::{
            a_server_empties, what_is_left_is_killed, an_interrupt_leaves_it_drained, time_may_be_up,
            undraining_restores_the_weight, sessions_that_only_wait_to_expire_are_not_waited_for,
            templates_are_reported_and_ended, killing_ends_templates_too, a_weight_given_meanwhile_stays,
            draining_twice_remembers_the_weight,
        }
        screen::{top_fits_on_80_by_24, drops_and_workers_have_their_tables, keys_sort_scroll_and_pause}
        process::{
            exit_statuses, colours_are_for_terminals, completion_knows_the_addresses,
            shells_complete_addresses_past_their_colons,
            top_restores_the_terminal, an_interrupted_drain_says_so, watching_ends_with_the_gateway,
            a_stopped_gateway_is_given_up_on,
            stats_are_watched_in_place, stats_are_watched_in_a_pipe,
        }
        documents::{the_schema_is_not_stale, every_command_prints_what_the_schema_says, the_schema_refuses_what_is_wrong}
        man::{pages_are_not_stale}
        service::{the_unit_is_as_the_docs_say, the_unit_for_serve_may_only_look, the_steps_fit_the_sample}
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
