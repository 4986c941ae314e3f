//! Text between tags.

use std::borrow::Cow;

/// Text between tags, of which blanks at the ends that were written as such don't count.
#[derive(Default)]
pub(super) struct Between<'x> {
    pub(super) text: Cow<'x, str>,
    /// Where the first and after the last that counts is.
    solid: Option<(usize, usize)>,
}

pub(super) const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

impl<'x> Between<'x> {
    pub(super) fn push(&mut self, piece: Cow<'x, str>, trimmed: bool) {
        let begin = self.text.len();
        let (from, to) = if trimmed {
            let from = piece.len() - piece.trim_start_matches(BLANKS).len();
            (from, piece.trim_end_matches(BLANKS).len())
        } else {
            (0, piece.len())
        };
        if from < to {
            let first = self.solid.map_or(begin + from, |(first, _)| first);
            self.solid = Some((first, begin + to));
        }
        if begin == 0 {
            self.text = piece;
        } else {
            self.text.to_mut().push_str(&piece);
        }
    }

    pub(super) fn trimmed(&self) -> &str {
        self.solid
            .and_then(|(from, to)| self.text.get(from..to))
            .unwrap_or_default()
    }
}
