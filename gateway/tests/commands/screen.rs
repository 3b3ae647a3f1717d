//! The screens of `top`, drawn in memory.

use ratatui::{Terminal, backend::TestBackend};
use weir_api::protocol::Change;
use weirctl::commands::{
    cli::SortKey,
    top::{Board, Key, Pane, draw},
};

use crate::world::{VIP, server, service, shop, store, tcp};
use crate::{
    questions::busy,
    rig::{
        WAN,
        frames::{self, Tcp},
    },
};

fn screen(board: &mut Board) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(board, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..24).map(|y| line(y).trim_end().to_owned()).collect()
}

pub fn top_fits_on_80_by_24() {
    let mut store = store();
    shop(&mut store);
    let mut board = Board::new(SortKey::Connections);
    board.look(&mut store).unwrap();
    let lines = screen(&mut board);
    assert!(lines[0].starts_with("weir 0.1.0  up 0s  generation 3  1 services  2 servers"), "{lines:#?}");
    assert!(lines[2].contains("0 connections/s") && lines[2].contains("0 bytes/s"), "{lines:#?}");
    let titles: Vec<&str> = lines[6].split_whitespace().collect();
    assert_eq!(titles, ["SERVICE", "/", "SERVER", "WEIGHT", "ACTIVE", "INACT", "CONN/Sv", "PKT/S", "BYTE/S"]);
    assert!(lines[7].starts_with("tcp/192.0.2.10:80 "), "{lines:#?}");
    assert!(lines[8].starts_with("  10.0.0.1:8080 "), "{lines:#?}");
    assert!(lines[23].starts_with("q quit  tab drops  s sort: connections  r reverse"), "{lines:#?}");
}

/// Why packets were dropped and what each worker does have tables of their own.
pub fn drops_and_workers_have_their_tables() {
    let mut rig = busy(4);
    let ack = Tcp { flags: "A", seq: 1, ack: 1 };
    let stray = || frames::tcp(WAN, ([10, 1, 9, 9], 1), (VIP, 80), ack, &[]);
    rig.send(WAN, &stray());
    rig.advance(2.0);
    let mut board = Board::new(SortKey::Connections);
    board.look(&mut rig.store).unwrap();
    (0..3).for_each(|_| drop(rig.send(WAN, &stray())));
    rig.advance(2.0);
    board.look(&mut rig.store).unwrap();
    board.press(Key::NextPane);
    let lines = screen(&mut board);
    let drop: Vec<&str> = lines[7].split_whitespace().collect();
    assert_eq!((drop[0], drop[2]), ("no-session", "4"), "{lines:#?}");
    assert!(lines[8].is_empty() && lines[23].starts_with("q quit  tab workers"), "{lines:#?}");
    board.press(Key::Pane(Pane::Workers));
    let lines = screen(&mut board);
    let worker: Vec<&str> = lines[7].split_whitespace().collect();
    assert_eq!((worker.len(), worker[0], worker[5]), (8, "0", "4"), "{lines:#?}");
    board.press(Key::NextPane);
    assert!(screen(&mut board)[7].starts_with("tcp/192.0.2.10:80 "));
}

pub fn keys_sort_scroll_and_pause() {
    let mut store = store();
    for port in 1..=30 {
        store.apply(&Change::AddService(service(tcp(port))).into()).unwrap();
        store.apply(&Change::AddServer { service: tcp(port), server: server(1, 1) }.into()).unwrap();
    }
    let mut board = Board::new(SortKey::Name);
    board.look(&mut store).unwrap();
    assert!(screen(&mut board)[7].starts_with("tcp/192.0.2.10:1 "));
    board.press(Key::Reverse);
    assert!(screen(&mut board)[7].starts_with("tcp/192.0.2.10:9 "), "names, not numbers");
    board.press(Key::Down);
    assert!(screen(&mut board)[7].starts_with("  10.0.0.1:8080"));
    board.press(Key::Servers);
    (0..9).for_each(|_| board.press(Key::PageDown));
    let lines = screen(&mut board);
    assert!(lines[22].starts_with("tcp/192.0.2.10:1 "), "the last line is the end: {lines:#?}");
    board.press(Key::Sort);
    board.press(Key::Pause);
    assert!(screen(&mut board)[23].starts_with("PAUSED q quit  tab drops  s sort: connections"));
}
