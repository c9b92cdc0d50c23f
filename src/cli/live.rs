//! The lines at the end of a terminal that are drawn again and again. In go lines and the number of columns, out come the characters
//! that put them in the place of the lines before. Pure: `cli::output` writes them.
//!
//! Each line is as long as its text and no longer: what is filled up with blanks is broken into two by terminals that become narrower, and
//! half of it would stay behind.

use std::fmt::Write as _;

use super::wrap::width;

/// How much room a terminal has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// In a line.
    pub columns: usize,
    /// Lines. With one, there is a line and nothing below it.
    pub rows: usize,
}

/// What stands there now.
#[derive(Debug, Default)]
pub(super) struct Frame {
    widths: Vec<usize>,
}

impl Frame {
    /// Takes it away. The cursor is then where the first line began.
    pub(super) fn erase(&mut self, columns: usize) -> String {
        if self.widths.is_empty() {
            return String::new();
        }
        // A terminal that has become narrower has broken what does not fit any more.
        let rows: usize = self.widths.drain(..).map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        match rows - 1 {
            0 => "\r\x1b[J".into(),
            up => format!("\r\x1b[{up}A\x1b[J"),
        }
    }

    /// Puts other lines in its place. The cursor stays behind the last of them.
    pub(super) fn draw(&mut self, lines: &[String], columns: usize) -> String {
        let mut text = self.erase(columns);
        for (number, line) in lines.iter().enumerate() {
            let _ = write!(text, "{}{line}", if number > 0 { "\r\n" } else { "" });
        }
        self.widths = lines.iter().map(|line| width(line)).collect();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_replaces_another_at_any_width() {
        let mut frame = Frame::default();
        let lines = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(frame.draw(&lines(&["0123456789"]), 20), "0123456789");
        assert_eq!(
            frame.draw(&lines(&["0123456789", "\x1b[36mab\x1b[0m", ""]), 20),
            "\r\x1b[J0123456789\r\n\x1b[36mab\x1b[0m\r\n"
        );
        // As narrow as six columns, the first line takes two rows.
        assert_eq!(frame.erase(6), "\r\x1b[3A\x1b[J");
        assert_eq!(frame.erase(6), "");
    }
}
