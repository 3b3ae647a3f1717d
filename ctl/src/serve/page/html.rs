//! Writing HTML.

use std::fmt::{Display, Write};

use hyper::body::Bytes;

/// HTML that is being written.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup, as it is.
    pub(super) fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Text, also in a quoted attribute's value.
    pub(super) fn text(&mut self, text: impl Display) {
        // Writing into a string doesn't fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// A table's head; a name that begins with `>` is of a column of numbers.
    pub(super) fn table(&mut self, columns: &[&str]) {
        self.raw("<div class=\"wide\"><table><thead><tr>");
        for column in columns {
            match column.strip_prefix('>') {
                Some(name) => {
                    self.raw("<th class=\"n\" scope=\"col\">");
                    self.text(name);
                }
                None => {
                    self.raw("<th scope=\"col\">");
                    self.text(column);
                }
            }
            self.raw("</th>");
        }
        self.raw("</tr></thead><tbody>\n");
    }

    /// The end of what [`Html::table`] began.
    pub(super) fn end_table(&mut self) {
        self.raw("</tbody></table></div>\n");
    }

    /// A cell.
    pub(super) fn cell(&mut self, text: impl Display) {
        self.raw("<td>");
        self.text(text);
        self.raw("</td>");
    }

    /// A cell with a number.
    pub(super) fn number(&mut self, number: impl Display) {
        self.raw("<td class=\"n\">");
        self.text(number);
        self.raw("</td>");
    }

    /// A cell with a state, which is never told by its colour alone.
    pub(super) fn state(&mut self, state: State, text: impl Display) {
        self.raw("<td>");
        self.badge(state, text);
        self.raw("</td>");
    }

    /// A state.
    pub(super) fn badge(&mut self, state: State, text: impl Display) {
        self.raw(match state {
            State::Good => "<span class=\"good\">",
            State::Care => "<span class=\"care\">",
            State::Bad => "<span class=\"bad\">",
        });
        self.text(text);
        self.raw("</span>");
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Good,
    Care,
    Bad,
}

impl State {
    /// By how much of something is used.
    pub(super) fn of_use(part: u64, whole: u64) -> Self {
        match (part * 100).checked_div(whole).unwrap_or(0) {
            95.. => Self::Bad,
            80.. => Self::Care,
            _ => Self::Good,
        }
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
