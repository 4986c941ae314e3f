//! What of a disk reads as zeroes, wherever it lies.

use std::collections::BTreeMap;

use super::super::partitions::Part;

/// Most stretches that are held: those of 4 GiB of swap of which no two pages are side by side.
pub(super) const MOST: usize = 1 << 20;

/// Stretches of a disk, each by where it begins; they neither overlap nor touch.
#[derive(Debug, Default)]
pub(super) struct Blank(BTreeMap<u64, u64>);

impl Blank {
    pub(super) fn add(&mut self, part: Part) {
        let (mut start, mut end) = (part.start, part.end());
        if start >= end {
            return;
        }
        while let Some((&other, &stop)) = self.0.range(..=end).next_back()
            && stop >= start
        {
            (start, end) = (start.min(other), end.max(stop));
            self.0.remove(&other);
        }
        self.0.insert(start, end);
    }

    /// Whether there is room for so many more.
    pub(super) fn has_room(&self, stretches: usize) -> bool {
        self.0.len().saturating_add(stretches) <= MOST
    }

    /// Whether all bytes from `start` to `end` are among them.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        let before = self.0.range(..=start).next_back();
        before.is_some_and(|(_, stop)| *stop >= end)
    }

    /// Makes them zeroes in what was read from `offset` on.
    pub(super) fn zero(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset.saturating_add(buffer.len() as u64);
        for (start, stop) in self.0.range(..end).rev() {
            if *stop <= offset {
                break;
            }
            zero(buffer, offset, *start, *stop);
        }
    }
}

/// Fills with zeroes what of the stretch from `start` to `end` is in a buffer that begins at `offset`.
pub(super) fn zero(buffer: &mut [u8], offset: u64, start: u64, end: u64) {
    let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    let range = place(start).min(buffer.len())..place(end).min(buffer.len());
    if let Some(stretch) = buffer.get_mut(range) {
        stretch.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_become_one_where_they_meet() {
        let mut blank = Blank::default();
        for (start, length) in [(10, 5), (30, 5), (15, 5), (0, 0), (50, 10), (33, 10)] {
            blank.add(Part { start, length });
        }
        assert_eq!(
            blank.0.iter().collect::<Vec<_>>(),
            [(&10, &20), (&30, &43), (&50, &60)]
        );
        blank.add(Part {
            start: 18,
            length: 40,
        });
        assert_eq!(blank.0.iter().collect::<Vec<_>>(), [(&10, &60)]);
        assert!(blank.has_room(MOST - 1) && !blank.has_room(MOST));
        assert!(blank.covers(10, 60) && !blank.covers(9, 11) && !blank.covers(59, 61));
    }

    #[test]
    fn only_they_are_zeroed() {
        let mut blank = Blank::default();
        for (start, length) in [(0, 2), (4, 2), (9, 100)] {
            blank.add(Part { start, length });
        }
        let mut buffer = [1; 10];
        blank.zero(1, &mut buffer);
        assert_eq!(buffer, [0, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
    }
}
