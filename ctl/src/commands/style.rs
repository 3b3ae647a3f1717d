//! Colours, and columns that line up.

use std::io::{self, IsTerminal, Write};

/// How output is dressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether it is coloured.
    pub colour: bool,
    /// Whether it is drawn over what was there.
    pub redraw: bool,
}

/// Whether output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Into files and pipes, too
    Always,
    /// Nowhere
    Never,
}

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// Titles.
    Strong,
    /// Good, added.
    Good,
    /// To be looked at, changed.
    Care,
    /// Bad, removed.
    Bad,
    /// Less important.
    Faint,
}

impl Style {
    /// For standard output: dressed if it is a terminal; unless `color` says otherwise, colourless if `NO_COLOR` is set and
    /// not empty (no-color.org) or the terminal is dumb.
    #[must_use]
    pub fn of_stdout(color: Color) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
        let terminal = io::stdout().is_terminal();
        let colour = match color {
            Color::Auto => terminal && !dumb && !set("NO_COLOR"),
            Color::Always => true,
            Color::Never => false,
        };
        Self { colour, redraw: terminal && !dumb }
    }

    /// `text` in a tone.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.into(),
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Care => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// What comes from a gateway's texts, without characters that a terminal obeys.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A table whose columns are as wide as they need to be. Numbers are set to the right.
#[derive(Debug, Default)]
pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<(Tone, Vec<String>)>,
    indent: usize,
}

impl Table {
    /// A table with these titles; one that begins with `>` is for a column of numbers.
    #[must_use]
    pub fn new(indent: usize, titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new(), indent }
    }

    /// Adds a row.
    pub fn row(&mut self, tone: Tone, cells: Vec<String>) {
        self.rows.push((tone, cells));
    }

    /// Writes it, titles first.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn write(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let title = |t: &&'static str| t.trim_start_matches('>').to_string();
        let titles: Vec<String> = self.titles.iter().map(title).collect();
        let width = |n: usize| {
            let cells = self.rows.iter().filter_map(|(_, row)| row.get(n));
            cells.chain(titles.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..titles.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).zip(&self.titles).map(|((cell, &width), title)| {
                if title.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            format!("{}{}", " ".repeat(self.indent), line.trim_end())
        };
        writeln!(out, "{}", style.paint(Tone::Strong, &line(&titles)))?;
        for (tone, row) in &self.rows {
            writeln!(out, "{}", style.paint(*tone, &line(row)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_colour_comes_last() {
        let mut table = Table::new(2, &["NAME", ">COUNT"]);
        table.row(Tone::Plain, vec!["a".into(), "12345".into()]);
        table.row(Tone::Bad, vec!["longer".into(), "1".into()]);
        let mut out = Vec::new();
        table.write(&mut out, Style::default()).unwrap();
        let expected = "  NAME    COUNT\n  a       12345\n  longer      1\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        table.write(&mut out, Style { colour: true, redraw: false }).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("\x1b[31m  longer      1\x1b[0m\n"));
    }

    #[test]
    fn texts_cannot_command_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a?[2Jb?");
    }
}
