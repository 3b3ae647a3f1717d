//! `weirctl top`: the busiest services and servers, dropped packets by reason, workers. The gateway says when there is something new to see.
//!
//! [`board`] keeps what is shown and answers keys, `draw` puts it on a screen; this file owns the terminal.

pub mod board;
mod draw;
mod draw_panes;
pub mod panes;

use std::{io, time::Duration};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use weir_api::{
    client::Transport,
    documents::{Body, stats::Top},
};

pub use self::{
    board::{Board, Key},
    draw::draw,
    panes::Pane,
};
use super::{Failure, Pace, Wake, World, cli::TopArgs, json};

/// How often to look although nothing is said to be new.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait for a key before looking elsewhere.
const KEYS: Duration = Duration::from_millis(100);

/// One look, as JSON; or the reason why there is no screen to draw on.
pub(super) fn snapshot(args: &TopArgs, world: &mut World<'_>) -> Result<(), Failure> {
    if !args.json {
        return Err(Failure::Usage("top needs a terminal; top --json or stats --watch do without".into()));
    }
    let mut board = Board::new(args.sort);
    board.look(world.transport)?;
    let top = Top {
        generation: board.status.generation,
        sessions: board.sessions().0,
        services: board.services.iter().map(Into::into).collect(),
    };
    Ok(json::write(world.out, Body::Top(top))?)
}

/// Draws on the terminal until `q` or a signal. The terminal is as it was afterwards, however this ends:
/// in panic too.
///
/// # Errors
/// The gateway is gone, or the terminal can't be used.
pub fn run(
    args: &TopArgs,
    colour: bool,
    transport: &mut dyn Transport,
    pace: &mut dyn Pace,
) -> Result<(), Failure> {
    pace.catch_interrupts()?;
    let mut board = Board::new(args.sort);
    board.colour = colour;
    // Before the screen is taken: complaints about the gateway then stay readable.
    board.look(transport)?;
    pace.follow_news();
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, &mut board, transport, pace);
    let restored = ratatui::try_restore();
    ended.and(Ok(restored?))
}

fn show(
    terminal: &mut DefaultTerminal,
    board: &mut Board,
    transport: &mut dyn Transport,
    pace: &mut dyn Pace,
) -> Result<(), Failure> {
    let mut looked = pace.now();
    loop {
        terminal.draw(|frame| draw(board, frame))?;
        if let Some(key) = key()? {
            if key == Key::Quit {
                return Ok(());
            }
            board.press(key);
        }
        let mut new = pace.now().saturating_sub(looked) >= LOOK;
        loop {
            match pace.wait(Duration::ZERO) {
                Wake::Time => break,
                Wake::News | Wake::Resized => new = true,
                Wake::Interrupt => return Ok(()),
                Wake::Gone => {
                    return Err(Failure::Unreachable("the gateway has closed the connection".into()));
                }
            }
        }
        if new && !board.paused {
            board.look(transport)?;
            looked = pace.now();
        }
    }
}

/// The next key that means something, if one is pressed soon.
fn key() -> io::Result<Option<Key>> {
    if !event::poll(KEYS)? {
        return Ok(None);
    }
    let Event::Key(key) = event::read()? else { return Ok(None) };
    if key.kind == KeyEventKind::Release {
        return Ok(None);
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(match key.code {
        KeyCode::Char('c') if control => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('s') => Some(Key::Sort),
        KeyCode::Char('r') => Some(Key::Reverse),
        KeyCode::Char('v') => Some(Key::Servers),
        KeyCode::Tab => Some(Key::NextPane),
        KeyCode::Char('1') => Some(Key::Pane(Pane::Services)),
        KeyCode::Char('2' | 'd') => Some(Key::Pane(Pane::Drops)),
        KeyCode::Char('3' | 'w') => Some(Key::Pane(Pane::Workers)),
        KeyCode::Char('p' | ' ') => Some(Key::Pause),
        KeyCode::Char('k') | KeyCode::Up => Some(Key::Up),
        KeyCode::Char('j') | KeyCode::Down => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        _ => None,
    })
}
