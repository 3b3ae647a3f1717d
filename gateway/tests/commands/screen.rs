//! The screens of `top`, drawn in memory.

use ratatui::{Terminal, backend::TestBackend};
use weir_api::protocol::Change;
use weirctl::commands::{
    cli::SortKey,
    top::{Board, Key, draw},
};

use crate::world::{server, service, shop, store, tcp};

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
    assert!(lines[23].starts_with("q quit  s sort: connections  r reverse"), "{lines:#?}");
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
    assert!(screen(&mut board)[23].starts_with("PAUSED q quit  s sort: connections"));
}
